"""The batch's append-only record of final outcomes: append, group commit, replay, counts. A record never changes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
