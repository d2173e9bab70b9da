"""Every byte and every row: blobs, metadata, migrations, fault points. The store decides nothing."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
