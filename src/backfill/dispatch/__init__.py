"""Feeding: keep each replica as full as it can take, try again what was lost, record what came back, drain."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
