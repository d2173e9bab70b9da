"""The way in: an upload becomes a sealed file and its index, in one streaming pass that holds no bodies."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
