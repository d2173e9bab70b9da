"""The doors: the HTTP API. The web asks the other rooms and answers; it runs no work."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
