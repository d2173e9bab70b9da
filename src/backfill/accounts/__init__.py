"""Who uses the server: owners, their keys and limits, and what they have used and have to pay for."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
