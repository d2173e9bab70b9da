"""The HTTP API: thin handlers around intake, turns and the store. docs/wire.md is its contract."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
