"""Whose usage a caller may see."""

from backfill.api_key import Caller, Scope

__all__ = ["find_owner"]


def find_owner(caller: Caller) -> str | None:
    """The owner whose usage is shown; None: that of all, for who may see it."""
    return None if Scope.ADMIN in caller.scopes else caller.owner
