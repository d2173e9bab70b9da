"""Every error that Backfill raises on purpose.

    BackfillError
    ├── InvalidInput            what was sent or written is wrong; the message says what and where
    │   ├── InvalidConfig       a setting is unknown or has no meaning
    │   └── TooLarge            more bytes than the limit allows
    ├── LimitReached            no room for it now, but there will be
    ├── Unauthorized            no key, or not one of ours
    ├── Forbidden               a known key, but not one for this
    ├── NotFound                no such thing, or not yours: the two are told apart nowhere
    ├── Conflict                the thing exists but is in a state that forbids the request
    ├── EngineUnavailable       an engine could not be started or reached
    ├── ModelUnavailable        a model could not be found, fetched or read
    ├── StoreUnavailable        the data directory or the database cannot be used
    │   ├── StoreBusy           another process holds what only one may hold
    │   ├── StoreFull           the data directory holds as much as it may
    │   ├── SchemaMismatch      the database's schema is none that this version may work on, or may change now
    │   └── StoreCorrupt        bytes on disk are not what was written
    │       ├── InputLost       the input of a batch is damaged or gone, and cannot be had again
    │       └── RowsLost        the database lacks rows of what lies beside it
    └── TurnLost                another holder took the turn: stop, and write nothing more

What an engine answers to a request is never an error here: it is a value (`engines.reply`). Why a picture or a clip
cannot be had is the outcome of a line, and stands with what finds it out (`media.failures`).
"""

__all__ = [
    "BackfillError",
    "Conflict",
    "EngineUnavailable",
    "Forbidden",
    "InputLost",
    "InvalidConfig",
    "InvalidInput",
    "LimitReached",
    "ModelUnavailable",
    "NotFound",
    "RowsLost",
    "SchemaMismatch",
    "StoreBusy",
    "StoreCorrupt",
    "StoreFull",
    "StoreUnavailable",
    "TooLarge",
    "TurnLost",
    "Unauthorized",
]


class BackfillError(Exception):
    """The root. `message` is one sentence that a user can act on.

    `code` is a stable word for programs; `param` names the field at fault, if one is.
    """

    code: str = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class InvalidInput(BackfillError):
    """What was sent or written is wrong."""

    code = "invalid_request"


class InvalidConfig(InvalidInput):
    """A setting is unknown or has no meaning."""

    code = "invalid_config"


class TooLarge(InvalidInput):
    """More bytes than the limit allows."""

    code = "file_too_large"


class LimitReached(BackfillError):
    """No room for it now, but there will be; the message says how much is taken, and when there may be room."""

    code = "token_limit_exceeded"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int = 60) -> None:
        """`retry_after_s`: by when there is room at the latest."""
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


class Unauthorized(BackfillError):
    """No key, or not one of ours."""

    code = "invalid_api_key"


class Forbidden(BackfillError):
    """A known key, but not one for this."""

    code = "insufficient_scope"


class NotFound(BackfillError):
    """No such thing, or not yours."""

    code = "not_found"


class Conflict(BackfillError):
    """The thing exists but is in a state that forbids the request."""

    code = "conflict"


class EngineUnavailable(BackfillError):
    """An engine could not be started or reached."""

    code = "engine_unavailable"


class ModelUnavailable(BackfillError):
    """A model could not be found, fetched or read."""

    code = "model_unavailable"


class StoreUnavailable(BackfillError):
    """The data directory or the database cannot be used."""

    code = "store_unavailable"
    reason: str = ""
    """What the database said, where clients may be told it."""


class StoreBusy(StoreUnavailable):
    """Another process holds what only one may hold."""

    code = "store_busy"


class StoreFull(StoreUnavailable):
    """The data directory holds as much as it may; the message says what makes room, and is for clients."""

    code = "insufficient_storage"


class SchemaMismatch(StoreUnavailable):
    """The database's schema is none that this version may work on, or may change while others do."""

    code = "schema_mismatch"


class StoreCorrupt(StoreUnavailable):
    """Bytes on disk are not what was written."""

    code = "store_corrupt"


class InputLost(StoreCorrupt):
    """The input of a batch is damaged or gone, and cannot be had again."""

    code = "input_lost"


class RowsLost(StoreCorrupt):
    """The database lacks rows of what lies beside it: it is new, empty or an older copy."""

    code = "rows_lost"


class TurnLost(BackfillError):
    """Another holder took the turn."""

    code = "turn_lost"
