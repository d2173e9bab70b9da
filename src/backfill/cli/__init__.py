"""The command line. Holds no logic of its own: every command calls the rooms or the server."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
