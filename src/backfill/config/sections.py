"""The sections of the settings that are about Backfill itself; those about engines are in `engines`."""

import base64
import binascii
import math
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from backfill.config.places import check_advertised, check_places

__all__ = [
    "DispatchConfig",
    "LimitsConfig",
    "LiveConfig",
    "Role",
    "Section",
    "ServerConfig",
    "TelemetryConfig",
    "WebhooksConfig",
]


class Section(BaseModel):
    """Settings that belong together; an unknown one is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Role(StrEnum):
    """What a server process does."""

    ALL = "all"
    """Everything, and it is alone on its data directory."""
    API = "api"
    """It answers HTTP, and has no engines."""
    WORK = "work"
    """It has engines and works on batches, and answers live requests that those with the role "api" pass on."""
    SCALE = "scale"
    """It keeps as many workers on a Ray cluster as there is work for; it answers no HTTP."""


class ServerConfig(Section):
    """Where the HTTP front listens and who may use it."""

    host: str = "127.0.0.1"
    port: int = Field(8484, ge=0, le=65535)
    """0 takes a free port; the address is printed once the server listens."""
    public_url: str = ""
    """How clients reach the server: for signed upload addresses (empty: the Host header), and a name to be asked by."""
    api_keys: tuple[SecretStr, ...] = ()
    """Keys that are let in, each the owner of its own files and batches; empty: no key is asked for."""
    upload_url_valid_s: int = Field(3600, gt=0)
    dashboard: bool = True
    """Pages for people, at `/`."""
    role: Role = Role.ALL
    """What this process does; several with the roles "api" and "work" may share a data directory."""
    engine: str = ""
    """The one engine that a process with the role "work" has; empty: all that Ray does not place."""
    work_port: int | None = Field(None, ge=0, le=65535)
    """Where a process with the role "work" answers `/health`, `/ready` and `/metrics`, and what others pass on to it;
    None: at a free port."""
    advertise: str = ""
    """How others reach this process, if it has engines: a host, one with a port, or a URL; empty: as it listens."""
    lease_s: float = Field(30.0, ge=0.5, le=3600)
    """After so long what a process with the role "work" had begun is taken over by another one, if it was silent."""

    @field_validator("advertise")
    @classmethod
    def _check_advertise(cls, value: str) -> str:
        return check_advertised(value)

    @property
    def lease_ms(self) -> int:
        """The same in milliseconds."""
        return round(self.lease_s * 1000)


class LimitsConfig(Section):
    """What one file and one batch may hold."""

    file_size_bytes: int = Field(100 * 1024 * 1024, gt=0)
    lines: int = Field(50_000, gt=0)
    inline_size_bytes: int = Field(4 * 1024 * 1024, gt=0)
    """Of a create call that has its requests in it."""
    custom_id_length: int = Field(64, gt=0)
    on_invalid_lines: Literal["fail", "error_file"] = "fail"
    """What becomes of lines that are no requests, where a batch does not say: they fail it, or only themselves."""
    enqueued_tokens: int = Field(30_000_000_000, gt=0)
    """Of one model that are still to be computed, in the batches of all owners together."""
    window_min_h: float = Field(0.25, gt=0)
    """The shortest `completion_window` that a batch may have."""
    window_max_h: float = Field(72.0, gt=0)
    """The longest."""
    window_h: float = Field(24.0, gt=0, validate_default=True)
    """How long a batch has from its creation to its deadline, if its client names no window."""

    @field_validator("window_h")
    @classmethod
    def _check_window(cls, value: float, info: ValidationInfo) -> float:
        bounds = info.data
        least_h, most_h = bounds.get("window_min_h", 0.0), bounds.get("window_max_h", math.inf)
        if not least_h <= value <= most_h:
            message = f"must be from window_min_h ({least_h:g}) to window_max_h ({most_h:g})"
            raise ValueError(message)
        return value


class DispatchConfig(Section):
    """How lines are sent and tried again."""

    tries: int = Field(5, ge=1)
    """How often a line is sent at most before its last failure is reported."""
    backoff_s: float = Field(0.5, gt=0)
    """Wait before the second try; doubles with every further one, with full jitter."""
    backoff_max_s: float = Field(30.0, gt=0)
    retry_after_max_s: float = Field(3600.0, gt=0)
    """A longer Retry-After of an engine is cut to this."""
    request_timeout_s: float = Field(1800.0, gt=0)
    """How long one answer may take."""
    cancel_grace_s: float = Field(10.0, ge=0)
    """How long requests in flight may still finish after a cancel, an expiry or a stop of the server."""
    reuse_answers: bool = True
    """Identical requests of a batch that have temperature 0 or a seed run once; false: each runs by itself."""
    lines_per_turn: int = Field(2000, ge=1)
    """Of more lines a batch is cut into slices for several workers, if it is admitted beside other processes."""


class TelemetryConfig(Section):
    """Where traces go; OpenTelemetry's own variables say it too."""

    endpoint: str = ""
    """A collector's URL, to which `/v1/traces` is added: OTLP over HTTP. Empty: as OTEL_EXPORTER_OTLP_ENDPOINT says."""
    engine_requests: float = Field(0.01, ge=0, le=1)
    """Which part of the requests to engines has a span."""

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value


class LiveConfig(Section):
    """Requests that are answered at once."""

    requests_per_minute: int = Field(0, ge=0)
    """Of each key that has no limit of its own; 0: any number."""
    tokens_per_minute: int = Field(0, ge=0)
    """Prompt and answer together, of each key that has no limit of its own; 0: any number."""
    body_size_bytes: int = Field(32 * 1024 * 1024, gt=0)
    """How large a request may be."""
    start_timeout_s: float = Field(120.0, gt=0)
    """How long a request waits for an engine that is being started, before it is told to try again."""
    relay: bool = True
    """Whether processes with the role "api" pass requests on to those with engines, which listen for that."""


class WebhooksConfig(Section):
    """Whom to tell that a batch has ended."""

    url: str = ""
    """Where to POST, http or https; empty: nobody is told."""
    secret: SecretStr | None = None
    """What messages are signed with: "whsec_" and 24 to 64 random bytes in base64. Required with a url."""
    timeout_s: float = Field(15.0, gt=0)
    """How long the receiver has to answer."""
    tries: int = Field(10, ge=1)
    """How often a message is sent at most; the last of 10 is some 32 hours after the first."""
    backoff_s: float = Field(5.0, gt=0)
    """Wait before the second try; four times as long before every further one, give or take a quarter."""
    backoff_max_s: float = Field(43_200.0, gt=0)
    allow: tuple[str, ...] = ()
    """Private places that batches may name as their own address: names of hosts, addresses or networks."""
    allow_http: bool = False
    """True: such an address may begin with http:// too."""

    @field_validator("allow")
    @classmethod
    def _check_allow(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_places(value)

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value

    @field_validator("secret")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        prefix, _, encoded = ("" if value is None else value.get_secret_value()).partition("_")
        try:
            size = len(base64.b64decode(encoded, validate=True))
        except binascii.Error:
            size = 0
        if value is not None and not (prefix == "whsec" and 24 <= size <= 64):
            raise ValueError('must be "whsec_" and 24 to 64 bytes in base64')
        return value

    @model_validator(mode="after")
    def _check_whole(self) -> "WebhooksConfig":
        if self.url and self.secret is None:
            raise ValueError("a url needs a secret, so that the receiver can tell who sent a message")
        return self
