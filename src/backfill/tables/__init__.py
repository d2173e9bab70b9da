"""A table becomes requests, and answers become columns beside its rows: prompts, answer columns, files of tables."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
