"""What a model is and what it costs: facts read from one table, with where they come from and when they were read."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
