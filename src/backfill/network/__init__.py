"""Ways out to where strangers say: links read and told, names looked up, addresses checked where the socket is made."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
