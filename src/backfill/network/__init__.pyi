from .addresses import AddressRules, is_public, parse_address
from .links import describe_link, read_link
from .resolver import Resolver
from .sessions import FORBIDDEN_ERRNO, CheckedSessions

__all__ = [
    "FORBIDDEN_ERRNO",
    "AddressRules",
    "CheckedSessions",
    "Resolver",
    "describe_link",
    "is_public",
    "parse_address",
    "read_link",
]
