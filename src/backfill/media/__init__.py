"""Pictures and clips that requests name: fetched once and safely, found to be what they should, kept while needed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
