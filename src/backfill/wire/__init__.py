"""The shapes that the outside sees: dialects, lines, errors. Pure: parse and render, no I/O."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
