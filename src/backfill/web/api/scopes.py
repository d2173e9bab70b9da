"""The table of scopes: which of them a key needs for a route. What is not in it takes the scope admin."""

from backfill.api_key import Caller, Scope
from backfill.errors import Forbidden

__all__ = ["ADMIN", "ANY", "LIVE", "LOOK", "SCOPES", "WATCH", "WORK", "check_scope"]

ANY = frozenset(Scope)
LOOK = frozenset({Scope.BATCH, Scope.READ_ONLY})
WORK = frozenset({Scope.BATCH})
LIVE = frozenset({Scope.LIVE})
WATCH = frozenset({Scope.READ_ONLY})
ADMIN = frozenset({Scope.ADMIN})

SCOPES: dict[tuple[str, str], frozenset[Scope]] = {
    ("GET", "/metrics"): WATCH,
    ("GET", "/v1/models"): ANY,
    ("GET", "/v1/models/{model_id}"): ANY,
    ("GET", "/v1/supported-models"): ANY,
    ("GET", "/v1/supported-models/{model_id}"): ANY,
    ("POST", "/v1/estimates"): LOOK,
    ("GET", "/v1/engines"): LOOK,
    ("GET", "/v1/whoami"): ANY,
    ("POST", "/v1/files"): WORK,
    ("POST", "/v1/files/upload"): WORK,
    ("GET", "/v1/files"): LOOK,
    ("GET", "/v1/files/{file_id}"): LOOK,
    ("POST", "/v1/files/{file_id}/preprocess"): WORK,
    ("DELETE", "/v1/files/{file_id}"): WORK,
    ("GET", "/v1/files/{file_id}/content"): LOOK,
    ("GET", "/v1/files/{file_id}/table"): LOOK,
    ("POST", "/v1/files/{file_id}/requests"): WORK,
    ("POST", "/v1/files/multipart/initiate"): WORK,
    ("POST", "/v1/files/multipart/complete"): WORK,
    ("POST", "/v1/files/multipart/abort"): WORK,
    ("POST", "/v1/uploads"): WORK,
    ("POST", "/v1/uploads/{upload_id}/parts"): WORK,
    ("POST", "/v1/uploads/{upload_id}/complete"): WORK,
    ("POST", "/v1/uploads/{upload_id}/cancel"): WORK,
    ("POST", "/v1/batches"): WORK,
    ("GET", "/v1/batches"): LOOK,
    ("GET", "/v1/batches/{batch_id}"): LOOK,
    ("POST", "/v1/batches/{batch_id}/cancel"): WORK,
    ("POST", "/v1/batches/{batch_id}/pause"): WORK,
    ("POST", "/v1/batches/{batch_id}/resume"): WORK,
    ("GET", "/v1/batches/{batch_id}/results"): LOOK,
    ("GET", "/v1/batches/{batch_id}/failures"): LOOK,
    ("POST", "/v1/batches/{batch_id}/retry"): WORK,
    ("GET", "/v1/webhooks/secret"): WORK,
    ("GET", "/v1/usage"): LOOK,
    ("GET", "/v1/organization/usage/completions"): LOOK,
    ("GET", "/v1/organization/usage/embeddings"): LOOK,
    ("GET", "/v1/organization/usage/audio_transcriptions"): LOOK,
    ("GET", "/v1/organization/costs"): LOOK,
    ("POST", "/v1/chat/completions"): LIVE,
    ("POST", "/v1/completions"): LIVE,
    ("POST", "/v1/embeddings"): LIVE,
    ("POST", "/v1/responses"): LIVE,
    ("POST", "/v1/gc"): ADMIN,
    ("GET", "/v1/organization/admin_api_keys"): ADMIN,
    ("POST", "/v1/organization/admin_api_keys"): ADMIN,
    ("GET", "/v1/organization/admin_api_keys/{key_id}"): ADMIN,
    ("DELETE", "/v1/organization/admin_api_keys/{key_id}"): ADMIN,
}
"""Method and route -> the scopes of which a key needs one. The scope admin holds all the others."""


def check_scope(caller: Caller, method: str, path: str) -> None:
    """Raises Forbidden if none of the caller's scopes is one for this route."""
    enough = SCOPES.get((method, path), ADMIN)
    if caller.scopes.isdisjoint(enough):
        needed = " or ".join(scope for scope in Scope if scope in enough)
        held = ", ".join(scope for scope in Scope if scope in caller.scopes)
        message = f"{method} {path} needs a key with the scope {needed}; this one has {held}."
        raise Forbidden(message)
