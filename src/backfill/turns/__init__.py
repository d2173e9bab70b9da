"""Admission, leases, cancel, expiry: which batch goes next and who may work on it. Never looks inside a request."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
