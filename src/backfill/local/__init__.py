"""Runs without a server: a folder of state, the rooms that work in it, and results that are put in place."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
