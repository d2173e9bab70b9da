"""What can be set, where it comes from and what its default is.

A setting comes from `backfill.toml`, then from the environment (`BACKFILL_SERVER__PORT=9000` sets `server.port`),
then from command-line options; the later one wins. An unknown key is refused with the nearest known one.
"""

import base64
import binascii
import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from backfill.errors import InvalidConfig

__all__ = [
    "DEFAULT_MODEL",
    "AutoEngineConfig",
    "Config",
    "DispatchConfig",
    "EngineConfig",
    "ExternalEngineConfig",
    "LimitsConfig",
    "LlamaCppEngineConfig",
    "ManagedEngineConfig",
    "OpenVinoEngineConfig",
    "ServerConfig",
    "WebhooksConfig",
    "load_config",
]

DEFAULT_MODEL = "smollm2-135m-instruct"
_CONCURRENCY_MAX = 1024
ENVIRONMENT_PREFIX = "BACKFILL_"
# Read by the command line or the fault points, not by this file.
_OTHER_VARIABLES = frozenset({"BACKFILL_CONFIG", "BACKFILL_URL", "BACKFILL_API_KEY", "BACKFILL_FAULT"})


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerConfig(_Section):
    """Where the HTTP front listens and who may use it."""

    host: str = "127.0.0.1"
    port: int = Field(8484, ge=0, le=65535)
    """0 takes a free port; the address is printed once the server listens."""
    public_url: str = ""
    """How clients reach the server, for signed upload addresses; empty: taken from each request's Host header."""
    api_keys: tuple[SecretStr, ...] = ()
    """Keys that are let in, each the owner of its own files and batches; empty: no key is asked for."""
    upload_url_valid_s: int = Field(3600, gt=0)


class LimitsConfig(_Section):
    """What one file and one batch may hold."""

    file_size_bytes: int = Field(100 * 1024 * 1024, gt=0)
    lines: int = Field(50_000, gt=0)
    custom_id_length: int = Field(64, gt=0)
    window_h: float = Field(24.0, gt=0)
    """How long a batch has from its creation to its deadline."""


class DispatchConfig(_Section):
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


class WebhooksConfig(_Section):
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

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            message = "must begin with http:// or https://"
            raise ValueError(message)
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
            message = 'must be "whsec_" and 24 to 64 bytes in base64'
            raise ValueError(message)
        return value

    @model_validator(mode="after")
    def _check_whole(self) -> "WebhooksConfig":
        if self.url and self.secret is None:
            message = "a url needs a secret, so that the receiver can tell who sent a message"
            raise ValueError(message)
        return self


_Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]


class _Engine(_Section):
    models: dict[str, str] = Field(default_factory=lambda: {"*": ""})
    """Model id in the batch -> name the engine knows it by; "*" is every other id; an empty name: the same id."""
    endpoints: tuple[_Endpoint, ...] = ()
    """What the engine is used for; empty: all that it serves."""
    exclusive: str = ""
    """Of the engines with the same word here one is up at a time, because there is memory for one."""

    @field_validator("models", mode="before")
    @classmethod
    def _accept_a_list(cls, value: object) -> object:
        if isinstance(value, (list, tuple)):
            return {str(name): "" for name in value}
        return value

    def narrow(self, served: frozenset[str]) -> frozenset[str]:
        """Of the endpoints that the engine serves those that it is used for."""
        return served.intersection(self.endpoints) if self.endpoints else served


class AutoEngineConfig(_Engine):
    """The built-in engine: OpenVINO where it can run the model's file, else llama.cpp."""

    kind: Literal["auto"] = "auto"
    model: str = DEFAULT_MODEL
    """A name of the catalogue (`backfill models list`), or the path of a GGUF file or of a folder in OpenVINO's IR."""
    concurrency: int = Field(0, ge=0, le=_CONCURRENCY_MAX)
    """Requests that OpenVINO computes side by side; 0: 64."""
    slots: int = Field(8, ge=1)
    """Requests that llama.cpp computes side by side."""
    context_tokens: int = Field(2048, ge=64)
    """Prompt and answer of one request together, at most."""
    kv_cache_gb: int = Field(0, ge=0)
    """Memory for OpenVINO's KV cache; 0: as much as the requests at hand need."""
    threads: int = Field(0, ge=0)
    """0: as the engine chooses."""
    deterministic: bool = False
    """True: an answer never depends on what is computed beside it; about half as fast, and only OpenVINO can."""


class OpenVinoEngineConfig(_Engine):
    """OpenVINO in a child process."""

    kind: Literal["openvino"] = "openvino"
    model: str = DEFAULT_MODEL
    """As for "auto"."""
    concurrency: int = Field(64, ge=1, le=_CONCURRENCY_MAX)
    """Requests that are computed side by side."""
    context_tokens: int = Field(2048, ge=0)
    """Prompt and answer of one request together, at most; 0: as many as the model takes."""
    kv_cache_gb: int = Field(0, ge=0)
    """Memory for the KV cache; 0: as much as the requests at hand need."""
    threads: int = Field(0, ge=0)
    """0: as the library chooses."""
    deterministic: bool = False
    """True: an answer never depends on what is computed beside it; about half as fast."""


class LlamaCppEngineConfig(_Engine):
    """llama.cpp's own server in a child process."""

    kind: Literal["llamacpp"] = "llamacpp"
    model: str = DEFAULT_MODEL
    """A name of the catalogue (`backfill models list`) or the path of a GGUF file."""
    slots: int = Field(8, ge=1)
    """Requests that are computed side by side."""
    context_tokens: int = Field(2048, ge=64)
    """Prompt and answer of one request together, at most; each slot takes memory for as many."""
    threads: int = Field(0, ge=0)
    """0: one for each core."""
    embeddings: bool = False
    """True: the engine serves /v1/embeddings and nothing else; llama.cpp cannot do both at once."""


class _Served(_Engine):
    """What goes for any server of OpenAI's shape: how many requests it bears is found while it works."""

    concurrency: int = Field(_CONCURRENCY_MAX, ge=1)
    """Requests in flight at most: a ceiling."""
    first_concurrency: int = Field(16, ge=1)
    """Requests in flight before anything is known of the engine."""


class ExternalEngineConfig(_Served):
    """A server that is already running: vLLM, SGLang, llama-server, Ollama or any other of OpenAI's shape."""

    kind: Literal["external"] = "external"
    url: str
    """Base URL, with or without /v1."""
    api_key: SecretStr | None = None

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            message = "must begin with http:// or https://"
            raise ValueError(message)
        return value.rstrip("/").removesuffix("/v1")


class ManagedEngineConfig(_Served):
    """A server that Backfill starts when a line needs it, watches and ends."""

    kind: Literal["vllm", "sglang"]
    model: str = Field(min_length=1)
    """An id of the Hugging Face hub or a path, as the server takes it."""
    command: tuple[str, ...] = ()
    """The program and its first words; empty: `vllm serve`, or `python -m sglang.launch_server`."""
    arguments: tuple[str, ...] = ()
    """Further words of the command line, behind those that Backfill sets."""
    port: int = Field(0, ge=0, le=65535)
    """On 127.0.0.1; 0: a free one."""
    start_timeout_s: float = Field(1800.0, gt=0)
    """How long loading, and downloading if need be, may take."""


EngineConfig = Annotated[
    AutoEngineConfig | OpenVinoEngineConfig | LlamaCppEngineConfig | ExternalEngineConfig | ManagedEngineConfig,
    Field(discriminator="kind"),
]


def _default_engines() -> dict[str, EngineConfig]:
    return {
        "local": AutoEngineConfig(),
        "local-embeddings": LlamaCppEngineConfig(embeddings=True),
        "local-responses": LlamaCppEngineConfig(endpoints=("/v1/responses",)),
    }


class Config(_Section):
    """Everything that can be set."""

    data_dir: Path = Field(default_factory=lambda: platformdirs.user_data_path("backfill"))
    """Files, batches and journals; one server at a time may hold it."""
    models_dir: Path = Field(default_factory=lambda: platformdirs.user_cache_path("backfill") / "models")
    """GGUF files that `backfill models pull` fetched."""
    server: ServerConfig = ServerConfig()
    limits: LimitsConfig = LimitsConfig()
    dispatch: DispatchConfig = DispatchConfig()
    webhooks: WebhooksConfig = WebhooksConfig()
    engines: dict[str, EngineConfig] = Field(default_factory=_default_engines)

    @model_validator(mode="after")
    def _check_engines(self) -> "Config":
        if not self.engines:
            message = "at least one engine is needed; leave [engines] out for the built-in one"
            raise ValueError(message)
        return self


def load_config(
    path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Merge file, environment and overrides (dotted keys), and check the whole.

    Without `path`, `$BACKFILL_CONFIG` and then `backfill.toml` in the working directory are used if they are there.

    Raises:
        InvalidConfig: the file is missing or no TOML, a key is unknown, or a value is out of range.

    """
    environment = os.environ if environment is None else environment
    settings = _read_file(path, environment)
    _merge_environment(settings, environment)
    for dotted, value in (overrides or {}).items():
        _put(settings, dotted.split("."), value)
    _default_the_kinds(settings)
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise InvalidConfig(_explain(error), param=_dotted(error)) from None


def _read_file(path: Path | None, environment: Mapping[str, str]) -> dict[str, Any]:
    chosen = path or (Path(environment["BACKFILL_CONFIG"]) if environment.get("BACKFILL_CONFIG") else None)
    if chosen is None:
        chosen = Path("backfill.toml")
        if not chosen.exists():
            return {}
    try:
        return tomllib.loads(chosen.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"The configuration file {chosen} cannot be read: {error.strerror}."
        raise InvalidConfig(message) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"The configuration file {chosen} is not valid TOML: {error}."
        raise InvalidConfig(message) from None


def _merge_environment(settings: dict[str, Any], environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name in _OTHER_VARIABLES:
            continue
        dotted = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        _put(settings, dotted, _parse_value(value))


def _parse_value(text: str) -> object:
    """TOML syntax where it is some (numbers, lists, tables, quoted strings), else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _put(settings: dict[str, Any], keys: list[str], value: object) -> None:
    for key in keys[:-1]:
        inner = settings.setdefault(key, {})
        if not isinstance(inner, dict):
            message = f"The setting {key!r} is a single value, so {'.'.join(keys)!r} cannot be set inside it."
            raise InvalidConfig(message, param=".".join(keys))
        settings = inner
    settings[keys[-1]] = value


def _default_the_kinds(settings: dict[str, Any]) -> None:
    """`kind` need not be written: "external" with a `url`, "llamacpp" with `embeddings`, else "auto"."""
    engines = settings.get("engines")
    if isinstance(engines, dict):
        for engine in engines.values():
            if isinstance(engine, dict):
                kind = "external" if "url" in engine else "llamacpp" if "embeddings" in engine else "auto"
                engine.setdefault("kind", kind)


_SECTIONS: dict[str, type[BaseModel]] = {
    "server": ServerConfig,
    "limits": LimitsConfig,
    "dispatch": DispatchConfig,
    "webhooks": WebhooksConfig,
    "auto": AutoEngineConfig,
    "openvino": OpenVinoEngineConfig,
    "llamacpp": LlamaCppEngineConfig,
    "external": ExternalEngineConfig,
    "vllm": ManagedEngineConfig,
    "sglang": ManagedEngineConfig,
}


def _dotted(error: ValidationError) -> str:
    location = [str(part) for part in error.errors()[0]["loc"]]
    # pydantic puts the union's tag behind the engine's name; the user never wrote it there.
    if location[0] == "engines" and len(location) > 2:
        del location[2]
    return ".".join(location)


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    dotted = _dotted(error)
    if first["type"] != "extra_forbidden":
        reason = first["msg"].removeprefix("Value error, ")
        return f"The setting {dotted!r} is not valid: {reason}." if dotted else f"The settings are not valid: {reason}."
    owner = next((_SECTIONS[part] for part in reversed(location[:-1]) if part in _SECTIONS), Config)
    known = sorted(owner.model_fields)
    near = difflib.get_close_matches(location[-1], known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known here: {', '.join(known)}."
    return f"Unknown setting {dotted!r}. {hint}"
