"""Start, watch, probe and call engines; what they answer is a value, and knows nothing of batches or files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
