"""The table of operations: what each route takes in its body and headers, and everything that it can answer.

Parameters in paths and queries are not here: FastAPI knows them from the handlers (`openapi`).
"""

from typing import Any, NamedTuple

from pydantic import BaseModel

from backfill.purposes import OPAQUE_PURPOSES
from backfill.web.api import engine_schemas, key_schemas, money_schemas, schemas, table_schemas
from backfill.web.api.admin_keys import CreateKey
from backfill.web.api.batches import CreateBatch
from backfill.web.api.estimates import WantedEstimate
from backfill.web.api.gc import CollectGarbage
from backfill.web.api.model_schemas import (
    EstimateAnswer,
    ModelAnswer,
    ModelPage,
    SupportedModelAnswer,
    SupportedModelPage,
)
from backfill.web.api.parts import (
    PART_COUNT_MAX,
    AbortParts,
    CompleteParts,
    CompleteUpload,
    CreateUpload,
    InitiateParts,
)
from backfill.web.api.retry import RetryBatch
from backfill.web.api.tables import MakeRequests
from backfill.web.api.usage_query import CostsQuery, SummaryQuery, UsageQuery, describe_query
from backfill.wire import openai, together

__all__ = ["OPERATIONS", "PATH_PARAMETERS", "REFERENCE", "Answer", "Operation"]

REFERENCE = "#/components/schemas/{model}"
_ID = {"type": "string", "minLength": 1, "pattern": "^[A-Za-z0-9_-]+$"}
PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "file_id": _ID,
    "key_id": _ID,
    "batch_id": _ID,
    "model_id": {"type": "string", "minLength": 1, "description": "May hold slashes, written as they are or as %2F."},
    "upload_id": _ID,
    "part_number": {"type": "integer", "minimum": 1, "maximum": PART_COUNT_MAX},
}


class Answer(NamedTuple):
    """One status that an operation can have, other than an error."""

    status: int
    description: str
    content: dict[str, Any] | None = None
    headers: dict[str, str] | None = None


class Operation(NamedTuple):
    """A route as the document tells of it."""

    answers: tuple[Answer, ...]
    errors: tuple[int, ...]
    models: tuple[type[BaseModel], ...] = ()
    """All models that answers and body refer to."""
    body: dict[str, Any] | None = None
    headers: tuple[dict[str, Any], ...] = ()
    """And parameters of the query that the handler reads by itself."""
    is_open: bool = False
    """Whether no key is asked for."""


def _refer(*models: type[BaseModel]) -> dict[str, Any]:
    references = [{"$ref": REFERENCE.format(model=model.__name__)} for model in models]
    return references[0] if len(references) == 1 else {"anyOf": references}


def _json(*models: type[BaseModel], status: int = 200, description: str = "Done.") -> Answer:
    return Answer(status, description, {"application/json": {"schema": _refer(*models)}})


def _one(model: type[BaseModel], *errors: int) -> Operation:
    """An operation with one JSON answer and no body."""
    return Operation((_json(model),), (401, 403, *errors, 500, 503), (model,))


def _exchange(wanted: type[BaseModel], answered: type[BaseModel], *errors: int) -> Operation:
    """An operation that takes JSON and answers JSON."""
    body = _body("JSON, whatever the content type.", application__json=_refer(wanted))
    return Operation((_json(answered),), (400, 401, 403, *errors, 413, 500, 503), (wanted, answered), body)


def _question(model: type[BaseModel], query: type[BaseModel]) -> Operation:
    """An operation with parameters in the query and one JSON answer."""
    return Operation((_json(model),), (400, 401, 403, 500, 503), (model,), headers=describe_query(query))


def _pass_on(*, streams: bool) -> Operation:
    """A request that goes to an engine; what it holds and what comes back is between client and engine."""
    some = {"schema": {"type": "object"}}
    events = {"text/event-stream": {"schema": {"type": "string"}}} if streams else {}
    answer = Answer(200, "The engine's answer.", {"application/json": some} | events, _RATE_LIMITS)
    body = _body("As the engine takes it; `model` says which one that is.", application__json=some["schema"])
    return Operation((answer,), (400, 401, 403, 404, 413, 429, 500, 502, 503, 504), body=body)


def _header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string"} | schema,
    }


def _body(description: str, *, required: bool = True, **schemas_by_type: dict[str, Any]) -> dict[str, Any]:
    content = {name.replace("__", "/").replace("_", "-"): {"schema": each} for name, each in schemas_by_type.items()}
    return {"description": description, "required": required, "content": content}


_PURPOSE = {"type": "string", "enum": [*together.PURPOSES, *openai.PURPOSES, *OPAQUE_PURPOSES]}
_FIELDS = {
    "purpose": _PURPOSE,
    "file_name": {"type": "string", "description": "Wins over the name of the file part."},
    "file_type": {"type": "string", "description": "Of requests jsonl; of pictures, clips and tables anything."},
    "checksum": {"type": "string", "pattern": "^([0-9a-fA-F]{64})?$", "description": "SHA-256 of the bytes."},
    "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
    "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
}
_EXPIRY = {
    "expires_after[anchor]": ["expires_after[seconds]"],
    "expires_after[seconds]": ["expires_after[anchor]"],
}
_BYTES = {"type": "string", "format": "binary"}
_WITH_FILE = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {"file": _BYTES, **_FIELDS},
    "dependentRequired": _EXPIRY,
}
_WITHOUT_FILE = {
    "type": "object",
    "required": ["file_name", "purpose"],
    "properties": _FIELDS | {"file_name": {"type": "string", "minLength": 1}},
    "dependentRequired": _EXPIRY,
}
_LOCATION = {
    "location": "Where to PUT the bytes: an absolute URL that needs no key.",
    "x-together-file-id": "The id of the file.",
}
_CONTENT_HEADERS = {"content-disposition": "The file's name.", "accept-ranges": "bytes", "content-length": "Bytes."}
_LINES = {"application/jsonl": {"schema": _BYTES}}
_RESULTS = _LINES | {"text/csv": {"schema": _BYTES}, "application/vnd.apache.parquet": {"schema": _BYTES}}
_CONTENT = _LINES | {"application/octet-stream": {"schema": _BYTES}}
_RATE_LIMITS = {
    f"x-ratelimit-{what}-{kind}": f"{told} Only where the key has a limit of {kind}."
    for kind in ("requests", "tokens")
    for what, told in (
        ("limit", "How many a minute."),
        ("remaining", "How many are left now."),
        ("reset", "When all are back, such as 1m30s."),
    )
}
_UPLOAD_ERRORS = (400, 401, 403, 413, 500, 503)
_BATCH = (schemas.TogetherBatch, schemas.OpenAIBatch)
_MOVED = Operation((_json(*_BATCH),), (400, 401, 403, 404, 500, 503), _BATCH)
_CREATED = (
    _json(schemas.OpenAIBatch, description="A batch in OpenAI's dialect."),
    _json(schemas.BatchCreated, status=201, description="A batch in Together's dialect."),
)
_REPEAT_HEADERS = (
    _header("Idempotency-Key", "The same key with the same request gives the same batch.", minLength=1, maxLength=255),
    _header("X-Stainless-Retry-Count", "Above 0: the same request was sent before."),
)
_BATCH_LIST: dict[str, Any] = {
    "anyOf": [_refer(schemas.BatchPage), {"type": "array", "items": _refer(schemas.TogetherBatch)}]
}
_MODEL_LIST: dict[str, Any] = {"anyOf": [_refer(ModelPage), {"type": "array", "items": _refer(ModelAnswer)}]}

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/health"): Operation((_json(schemas.Health),), (500,), (schemas.Health,), is_open=True),
    ("GET", "/healthz"): Operation((_json(schemas.Health),), (500,), (schemas.Health,), is_open=True),
    ("GET", "/readyz"): Operation(
        (
            _json(schemas.Readiness),
            _json(schemas.Readiness, status=503, description="A part does not work, or the server is about to end."),
        ),
        (500,),
        (schemas.Readiness,),
        is_open=True,
    ),
    ("GET", "/openapi.json"): Operation(
        (Answer(200, "Done.", {"application/json": {"schema": {"type": "object"}}}),), (500,), is_open=True
    ),
    ("GET", "/metrics"): Operation(
        (Answer(200, "Prometheus' text format.", {"text/plain": {"schema": {"type": "string"}}}),), (401, 403, 500, 503)
    ),
    ("GET", "/v1/models"): Operation(
        (Answer(200, "A list, or an array for Together's clients.", {"application/json": {"schema": _MODEL_LIST}}),),
        (401, 500, 503),
        (ModelPage, ModelAnswer),
    ),
    ("GET", "/v1/models/{model_id}"): _one(ModelAnswer, 404),
    ("GET", "/v1/supported-models"): _one(SupportedModelPage),
    ("GET", "/v1/supported-models/{model_id}"): _one(SupportedModelAnswer, 404),
    ("POST", "/v1/chat/completions"): _pass_on(streams=True),
    ("POST", "/v1/completions"): _pass_on(streams=True),
    ("POST", "/v1/embeddings"): _pass_on(streams=False),
    ("POST", "/v1/responses"): _pass_on(streams=True),
    ("POST", "/v1/estimates"): _exchange(WantedEstimate, EstimateAnswer),
    ("GET", "/v1/engines"): _one(engine_schemas.EnginePage),
    ("POST", "/v1/gc"): Operation(
        (_json(schemas.Garbage),),
        (400, 401, 403, 413, 500, 503),
        (schemas.Garbage, schemas.Leftover, CollectGarbage),
        _body("Nothing: remove it.", required=False, application__json=_refer(CollectGarbage)),
    ),
    ("GET", "/v1/whoami"): _one(key_schemas.Identity),
    ("GET", "/v1/webhooks/secret"): _one(key_schemas.WebhookSecret),
    ("GET", "/v1/usage"): _question(money_schemas.UsageSummary, SummaryQuery),
    ("GET", "/v1/organization/usage/completions"): _question(money_schemas.CompletionsUsagePage, UsageQuery),
    ("GET", "/v1/organization/usage/embeddings"): _question(money_schemas.EmbeddingsUsagePage, UsageQuery),
    ("GET", "/v1/organization/usage/audio_transcriptions"): _question(money_schemas.AudioUsagePage, UsageQuery),
    ("GET", "/v1/organization/costs"): _question(money_schemas.CostsPage, CostsQuery),
    ("POST", "/v1/files"): Operation(
        (
            _json(schemas.FileAnswer, description="There was a file part: the file is here."),
            Answer(302, "There was none: the file is reserved.", headers=_LOCATION),
        ),
        _UPLOAD_ERRORS,
        (schemas.FileAnswer,),
        _body(
            "A form with the file, or without it to ask for an address for its bytes. Fields may stand in the query.",
            multipart__form_data={"anyOf": [_WITH_FILE, _WITHOUT_FILE]},
            application__x_www_form_urlencoded=_WITHOUT_FILE,
        ),
    ),
    ("POST", "/v1/files/upload"): Operation(
        (_json(schemas.FileAnswer),),
        _UPLOAD_ERRORS,
        (schemas.FileAnswer,),
        _body("A form with the file.", multipart__form_data=_WITH_FILE),
    ),
    ("PUT", "/v1/uploads/{file_id}"): Operation(
        (Answer(200, "The file is complete."),),
        (400, 403, 404, 413, 500, 503),
        body=_body("The bytes as they are.", application__octet_stream=_BYTES),
        is_open=True,
    ),
    ("GET", "/v1/files"): _one(schemas.FilePage, 400, 404),
    ("GET", "/v1/files/{file_id}"): _one(schemas.FileAnswer, 404),
    ("POST", "/v1/files/{file_id}/preprocess"): _one(schemas.FileAnswer, 404),
    ("DELETE", "/v1/files/{file_id}"): _one(schemas.FileDeleted, 400, 404),
    ("GET", "/v1/files/{file_id}/content"): Operation(
        (
            Answer(200, "The whole file.", _CONTENT, _CONTENT_HEADERS),
            Answer(
                206, "One range of it.", _CONTENT, _CONTENT_HEADERS | {"content-range": "Which bytes, of how many."}
            ),
        ),
        (400, 401, 403, 404, 416, 500, 503),
        headers=(
            _header("Range", "One range of bytes; any other form gives the whole file."),
            _header("If-Range", "The ETag of an earlier answer: if it is not the file's, the whole file is sent."),
        ),
    ),
    ("GET", "/v1/files/{file_id}/table"): _one(table_schemas.TableAnswer, 400, 404),
    ("POST", "/v1/files/{file_id}/requests"): Operation(
        (_json(table_schemas.TableRequests, table_schemas.TablePreview),),
        (400, 401, 403, 404, 413, 500, 503),
        (table_schemas.TableRequests, table_schemas.TablePreview, MakeRequests),
        _body("What to ask about the rows.", application__json=_refer(MakeRequests)),
    ),
    ("POST", "/v1/files/multipart/initiate"): _exchange(InitiateParts, schemas.PartsInitiated),
    ("PUT", "/v1/uploads/{upload_id}/parts/{part_number}"): Operation(
        (Answer(200, "The part is here.", headers={"etag": "To be named when the upload is completed."}),),
        (400, 403, 404, 413, 500, 503),
        body=_body("The part's bytes as they are.", application__octet_stream=_BYTES),
        is_open=True,
    ),
    ("POST", "/v1/files/multipart/complete"): _exchange(CompleteParts, schemas.PartsCompleted, 404),
    ("POST", "/v1/files/multipart/abort"): _exchange(AbortParts, schemas.PartsAborted, 404),
    ("POST", "/v1/uploads"): _exchange(CreateUpload, schemas.UploadAnswer),
    ("POST", "/v1/uploads/{upload_id}/parts"): Operation(
        (_json(schemas.UploadPartAnswer),),
        (400, 401, 403, 404, 413, 500, 503),
        (schemas.UploadPartAnswer,),
        _body(
            "A form with the part.",
            multipart__form_data={"type": "object", "required": ["data"], "properties": {"data": _BYTES}},
        ),
    ),
    ("POST", "/v1/uploads/{upload_id}/complete"): _exchange(CompleteUpload, schemas.UploadAnswer, 404),
    ("POST", "/v1/uploads/{upload_id}/cancel"): _one(schemas.UploadAnswer, 400, 404),
    ("POST", "/v1/batches"): Operation(
        _CREATED,
        (400, 401, 403, 404, 413, 429, 500, 503),
        (schemas.OpenAIBatch, schemas.BatchCreated, CreateBatch),
        _body("The batch, whatever the content type.", application__json=_refer(CreateBatch)),
        _REPEAT_HEADERS,
    ),
    ("GET", "/v1/batches"): Operation(
        (Answer(200, "A page or all, as the client's dialect has it.", {"application/json": {"schema": _BATCH_LIST}}),),
        (400, 401, 403, 404, 500, 503),
        (schemas.BatchPage, schemas.TogetherBatch),
    ),
    ("GET", "/v1/batches/{batch_id}"): Operation((_json(*_BATCH),), (401, 403, 404, 500, 503), _BATCH),
    ("POST", "/v1/batches/{batch_id}/cancel"): _MOVED,
    ("POST", "/v1/batches/{batch_id}/pause"): _MOVED,
    ("POST", "/v1/batches/{batch_id}/resume"): _MOVED,
    ("GET", "/v1/batches/{batch_id}/results"): Operation(
        (Answer(200, "Finished lines, in the order in which they finished; or a table of all.", _RESULTS),),
        (400, 401, 403, 404, 500, 503),
    ),
    ("GET", "/v1/batches/{batch_id}/failures"): _one(schemas.FailurePage, 400, 404),
    ("POST", "/v1/batches/{batch_id}/retry"): Operation(
        _CREATED,
        (400, 401, 403, 404, 413, 429, 500, 503),
        (schemas.OpenAIBatch, schemas.BatchCreated, RetryBatch),
        _body("Which of the failed lines; nothing: all.", required=False, application__json=_refer(RetryBatch)),
        _REPEAT_HEADERS,
    ),
    ("GET", "/v1/organization/admin_api_keys"): _one(key_schemas.AdminKeyPage, 400, 404),
    ("POST", "/v1/organization/admin_api_keys"): _exchange(CreateKey, key_schemas.AdminKeyCreated),
    ("GET", "/v1/organization/admin_api_keys/{key_id}"): _one(key_schemas.AdminKey, 404),
    ("DELETE", "/v1/organization/admin_api_keys/{key_id}"): _one(key_schemas.AdminKeyDeleted, 404),
}
