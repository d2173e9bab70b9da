"""The answers of the API as models: what the OpenAPI document says of them, and what tests hold them against.

Handlers render answers by hand (`wire`); a member that is not here, or that is missing there, fails the tests.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from backfill.web.api.batch_members import OnInvalidLines
from backfill.web.api.money_schemas import Cost

__all__ = [
    "BatchCreated",
    "BatchPage",
    "ErrorAnswer",
    "FailurePage",
    "FileAnswer",
    "FileDeleted",
    "FilePage",
    "Health",
    "OpenAIBatch",
    "PartsAborted",
    "PartsCompleted",
    "PartsInitiated",
    "Readiness",
    "TogetherBatch",
    "UploadAnswer",
    "UploadPartAnswer",
]

_Seconds = Annotated[int, Field(description="Unix time in seconds.")]
_Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Error(_Answer):
    message: str
    type: Literal["invalid_request_error", "authentication_error", "permission_error", "server_error"]
    param: Annotated[str | None, Field(description="The field at fault.")]
    code: str | None


class ErrorAnswer(_Answer):
    """Whatever fails, and wherever."""

    error: _Error


class FileAnswer(_Answer):
    """A file, with the members of both dialects. Under `/together/v1` and `/openai/v1` it has that dialect's only."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: _Seconds
    expires_at: _Seconds | None
    filename: str
    purpose: Literal["batch", "batch-api", "batch_output", "user_data", "vision", "table"]
    status: Literal["uploaded", "processed"]
    status_details: None
    FileType: Literal["jsonl"]
    Processed: bool
    LineCount: int
    processing_status: None


class FilePage(_Answer):
    """Files, and whether there are more behind them."""

    object: Literal["list"]
    data: list[FileAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(_Answer):
    """A file that is no more."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class _PartAddress(_Answer):
    PartNumber: int
    URL: Annotated[str, Field(description="Where to PUT the part: an absolute URL that needs no key.")]
    Headers: Annotated[dict[str, str], Field(description="What to send with it.")]


class PartsInitiated(_Answer):
    """An upload in parts, and where each of them goes."""

    upload_id: str
    file_id: str
    parts: list[_PartAddress]


class PartsCompleted(_Answer):
    """The file that the parts have become."""

    file: FileAnswer


class PartsAborted(_Answer):
    """An upload that is no more."""

    upload_id: str
    file_id: str
    aborted: Literal[True]


class _UploadedFile(_Answer):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: _Seconds
    expires_at: _Seconds | None
    filename: str
    purpose: Literal["batch", "batch-api", "batch_output"]
    status: Literal["uploaded", "processed"]
    status_details: None


class UploadAnswer(_Answer):
    """An upload in parts that are named by the server."""

    id: str
    object: Literal["upload"]
    bytes: int
    created_at: _Seconds
    expires_at: _Seconds
    filename: str
    purpose: Literal["batch", "batch-api"]
    status: Literal["pending", "completed", "cancelled"]
    file: _UploadedFile | None


class UploadPartAnswer(_Answer):
    """A part that was received."""

    id: str
    object: Literal["upload.part"]
    created_at: _Seconds
    upload_id: str


class _RequestCounts(_Answer):
    total: int
    completed: int
    failed: int


_WaitReason = Literal[
    "store_unavailable",
    "engine_unavailable",
    "engine_starting",
    "rate_limited",
    "engine_memory",
    "live_traffic",
    "media_fetches",
    "other_batches",
    "paused",
    "internal_error",
]


class _TogetherWaiting(_Answer):
    """Why the batch does not move; only there while that is so."""

    reason: _WaitReason
    message: str
    since: _Time


class _OpenAIWaiting(_Answer):
    """Why the batch does not move; only there while that is so."""

    reason: _WaitReason
    message: str
    since: _Seconds


class TogetherBatch(_Answer):
    """A batch in Together's dialect."""

    id: str
    user_id: str
    input_file_id: str
    file_size_bytes: int
    status: Literal["VALIDATING", "IN_PROGRESS", "COMPLETED", "FAILED", "EXPIRED", "CANCELLED"]
    job_deadline: _Time
    created_at: _Time
    endpoint: str
    name: Annotated[str | None, Field(description="What its owner calls it.")]
    on_invalid_lines: OnInvalidLines
    progress: Annotated[float, Field(ge=0, le=100)]
    model_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    error: str | None
    completed_at: _Time | None
    request_counts: _RequestCounts
    webhook_url: str | None = None
    metadata: Annotated[dict[str, str] | None, Field(description="Only where it was given.")] = None
    waiting: _TogetherWaiting | None = None
    estimated_completion_at: _Time | None = None
    cost: Cost | None = None


class BatchCreated(_Answer):
    """What creating a batch is answered with in Together's dialect."""

    job: TogetherBatch
    warning: str | None


class _Problem(_Answer):
    code: str
    message: str
    param: str | None
    line: int | None


class _Problems(_Answer):
    object: Literal["list"]
    data: list[_Problem]


class _CachedTokens(_Answer):
    cached_tokens: int


class _ReasoningTokens(_Answer):
    reasoning_tokens: int


class _Usage(_Answer):
    input_tokens: int
    input_tokens_details: _CachedTokens
    output_tokens: int
    output_tokens_details: _ReasoningTokens
    total_tokens: int


class OpenAIBatch(_Answer):
    """A batch in OpenAI's dialect."""

    id: str
    object: Literal["batch"]
    endpoint: str
    name: Annotated[str | None, Field(description="What its owner calls it.")]
    on_invalid_lines: OnInvalidLines
    model: str | None
    errors: _Problems | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: _Seconds
    in_progress_at: _Seconds | None
    expires_at: _Seconds | None
    finalizing_at: _Seconds | None
    completed_at: _Seconds | None
    failed_at: _Seconds | None
    expired_at: _Seconds | None
    cancelling_at: _Seconds | None
    cancelled_at: _Seconds | None
    request_counts: _RequestCounts
    usage: _Usage
    metadata: dict[str, str] | None
    webhook_url: str | None = None
    waiting: _OpenAIWaiting | None = None
    estimated_completion_at: _Seconds | None = None
    warning: Annotated[str | None, Field(description="Of a create: why its window will probably not do.")] = None
    cost: Cost | None = None


class BatchPage(_Answer):
    """Batches in OpenAI's dialect, and whether there are more behind them."""

    object: Literal["list"]
    data: list[OpenAIBatch]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FailureGroupAnswer(_Answer):
    """Failed lines of a batch that failed for the same reason."""

    id: str
    object: Literal["batch.failure_group"]
    code: str
    reason: Annotated[str, Field(description="The message, but for what differs between the lines.")]
    example: Annotated[str, Field(description="The message of the first.")]
    count: Annotated[int, Field(ge=1)]
    custom_ids: Annotated[list[str], Field(description="Of some of them.")]
    first_at: Annotated[str | None, Field(description="When the first failed; null: they were left undone.")]
    last_at: str | None


class FailurePage(_Answer):
    """The failed lines of a batch, by reason, most first."""

    object: Literal["list"]
    data: list[FailureGroupAnswer]


class Leftover(_Answer):
    """Something that was over."""

    kind: Annotated[str, Field(description="input, output, expired, journal or quarantine.")]
    name: Annotated[str, Field(description="Id of the file or of the batch, or the name of a folder.")]
    size_bytes: int


class Garbage(_Answer):
    """What was removed, or with `dry_run` would be."""

    object: Literal["gc"]
    dry_run: bool
    size_bytes: Annotated[int, Field(description="Of all of it.")]
    removed: list[Leftover]


class Readiness(_Answer):
    """Whether the server can do its work."""

    status: Literal["ok", "unavailable"]
    parts: Annotated[
        dict[
            Literal["database", "disk", "dispatcher", "server"],
            Literal["ok", "unavailable", "no room", "no answer", "stopping"],
        ],
        Field(description="What was tried, and what is the matter with it."),
    ]


class Health(_Answer):
    """The process answers."""

    status: Literal["ok"]
