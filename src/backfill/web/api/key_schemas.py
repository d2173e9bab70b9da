"""The answers about API keys, and about who asks, as models; beside `schemas`, which tells what they are for."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["AdminKey", "AdminKeyCreated", "AdminKeyDeleted", "AdminKeyPage", "Identity", "WebhookSecret"]

_Seconds = Annotated[int, Field(description="Unix time in seconds.")]
_Limit = Annotated[int | None, Field(gt=0, description="Null: the server's own.")]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _KeyOwner(_Answer):
    type: Literal["user"]
    object: Literal["organization.user"]
    id: Annotated[str, Field(description="Whose files and batches the key works on.")]
    name: str
    created_at: _Seconds
    role: Literal["owner"]


class _KeyLimits(_Answer):
    requests_per_minute: _Limit
    tokens_per_minute: _Limit
    lines: _Limit
    file_size_bytes: _Limit
    enqueued_tokens: _Limit


class AdminKey(_Answer):
    """A key, without the key itself."""

    object: Literal["organization.admin_api_key"]
    id: str
    name: str
    redacted_value: Annotated[str, Field(description="How the key begins.")]
    created_at: _Seconds
    expires_at: _Seconds | None
    last_used_at: Annotated[_Seconds | None, Field(description="To the minute.")]
    revoked_at: _Seconds | None
    owner: _KeyOwner
    scopes: list[Literal["batch", "live", "read-only", "admin"]]
    limits: _KeyLimits


class AdminKeyCreated(AdminKey):
    """A key, and the only time that it is shown."""

    value: str


class AdminKeyDeleted(_Answer):
    """A key that lets nobody in any more."""

    object: Literal["organization.admin_api_key.deleted"]
    id: str
    deleted: Literal[True]


class AdminKeyPage(_Answer):
    """Keys, and whether there are more behind them."""

    object: Literal["list"]
    data: list[AdminKey]
    first_id: str | None
    last_id: str | None
    has_more: bool


class WebhookSecret(_Answer):
    """With what messages to the own addresses of batches are signed."""

    object: Literal["webhook.secret"]
    secret: Annotated[str, Field(pattern="^whsec_")]


class _FileLimits(_Answer):
    lines: int
    file_size_bytes: int
    custom_id_length: int


class Identity(_Answer):
    """Who is asking."""

    object: Literal["user"]
    user_id: str
    limits: Annotated[_FileLimits, Field(description="What one file of requests may hold: the key's, or the server's.")]
