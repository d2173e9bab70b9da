"""Requests that somebody waits for, on the engines that batches use: their limits, and the way there and back."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
