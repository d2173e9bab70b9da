"""Pages for people, over the same rooms as the API: they do nothing that the API cannot."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
