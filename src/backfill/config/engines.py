"""The settings of engines, a class for each kind."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from backfill.config.money import Amount
from backfill.config.ray import Place, ReplicasConfig, Resources
from backfill.config.sections import Section

__all__ = [
    "DEFAULT_MODEL",
    "DEFAULT_SPEECH_MODEL",
    "AutoEngineConfig",
    "EngineConfig",
    "ExternalEngineConfig",
    "LlamaCppEngineConfig",
    "ManagedEngineConfig",
    "OpenVinoEngineConfig",
    "SpeechEngineConfig",
    "default_engines",
]

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_SPEECH_MODEL = "whisper-base"
# Listed although any other id is served too, so that who asks for the models sees that clips are taken.
_SPEECH_IDS = ("openai/whisper-large-v3", "openai/whisper-base")
_CONCURRENCY_MAX = 1024

_TextEndpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
_AudioEndpoint = Literal["/v1/audio/transcriptions", "/v1/audio/translations"]
_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
# With these a path begins from which the version was left out.
_VERSIONED = ("audio", "chat", "completions", "embeddings", "images", "messages", "moderations", "responses")


class _Engine(Section):
    models: dict[str, str] = Field(default_factory=lambda: {"*": ""})
    """Model id in the batch -> name the engine knows it by; "*" is every other id; an empty name: the same id."""
    endpoints: tuple[str, ...] = ()
    """What the engine is used for; empty: all that it serves."""
    exclusive: str = ""
    """Of the engines with the same word here one is up at a time, because there is memory for one."""
    cost_per_hour: Amount | None = None
    """What an hour of the hardware costs while it works: rent, or its price over its years."""
    watts: Amount | None = None
    """What it draws while it works; with `money.price_per_kwh`."""
    place: Place = "here"
    """Who starts it: "here" the process that reads these settings, "ray" the scaler, on nodes of a Ray cluster."""
    replicas: ReplicasConfig = ReplicasConfig()
    """How many there are on Ray."""
    resources: Resources = Field(default_factory=dict)
    """What Ray sets aside for each: "CPU", "GPU", "memory" in bytes, or any other that its nodes have."""

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if self.place != "ray" and (self.resources or self.replicas != ReplicasConfig()):
            raise ValueError('replicas and resources need place = "ray"')
        return self

    @field_validator("models", mode="before")
    @classmethod
    def _accept_a_list(cls, value: object) -> object:
        if isinstance(value, (list, tuple)):
            return {str(name): "" for name in value}
        return value

    def narrow(self, served: frozenset[str]) -> frozenset[str]:
        """Of the endpoints that the engine serves those that it is used for."""
        return served.intersection(self.endpoints) if self.endpoints else served


class _TextEngine(_Engine):
    """One of the built-in."""

    endpoints: tuple[_TextEndpoint, ...] = ()


class AutoEngineConfig(_TextEngine):
    """The built-in engine: OpenVINO where it can run the model's file, else llama.cpp."""

    kind: Literal["auto"] = "auto"
    model: str = DEFAULT_MODEL
    """A name of the catalogue (`backfill models list`), or the path of a GGUF file or of a folder in OpenVINO's IR."""
    concurrency: int = Field(0, ge=0, le=_CONCURRENCY_MAX)
    """Requests that OpenVINO computes side by side; 0: 64."""
    slots: int = Field(8, ge=1)
    """Requests that llama.cpp computes side by side."""
    context_tokens: int = Field(0, ge=0)
    """Prompt and answer of one request together, at most; 0: as many as the model takes."""
    kv_cache_gb: int = Field(0, ge=0)
    """Memory for OpenVINO's KV cache; 0: as much as the requests at hand need."""
    threads: int = Field(0, ge=0)
    """0: as the engine chooses."""
    deterministic: bool = False
    """True: an answer never depends on what is computed beside it; about half as fast, and only OpenVINO can."""


class OpenVinoEngineConfig(_TextEngine):
    """OpenVINO in a child process."""

    kind: Literal["openvino"] = "openvino"
    model: str = DEFAULT_MODEL
    """As for "auto"."""
    concurrency: int = Field(64, ge=1, le=_CONCURRENCY_MAX)
    """Requests that are computed side by side."""
    context_tokens: int = Field(0, ge=0)
    """Prompt and answer of one request together, at most; 0: as many as the model takes."""
    kv_cache_gb: int = Field(0, ge=0)
    """Memory for the KV cache; 0: as much as the requests at hand need."""
    threads: int = Field(0, ge=0)
    """0: as the library chooses."""
    deterministic: bool = False
    """True: an answer never depends on what is computed beside it; about half as fast."""


class LlamaCppEngineConfig(_TextEngine):
    """llama.cpp's own server in a child process."""

    kind: Literal["llamacpp"] = "llamacpp"
    model: str = DEFAULT_MODEL
    """A name of the catalogue (`backfill models list`) or the path of a GGUF file."""
    slots: int = Field(8, ge=1)
    """Requests that are computed side by side."""
    context_tokens: int = Field(0, ge=0)
    """Prompt and answer of one request together, at most; 0: as many as the model takes and memory holds."""
    threads: int = Field(0, ge=0)
    """0: one for each core."""
    embeddings: bool = False
    """True: the engine serves /v1/embeddings and nothing else; llama.cpp cannot do both at once."""
    projector: str = ""
    """Path of the GGUF file (mmproj) that belongs to the model and lets it see; empty: it takes text only."""

    @model_validator(mode="after")
    def _check_projector(self) -> Self:
        if self.projector and self.embeddings:
            raise ValueError("an engine for embeddings sees nothing: it has embeddings or a projector")
        return self


class SpeechEngineConfig(_Engine):
    """Whisper in a child process: writes down, or translates, what is said in a clip."""

    kind: Literal["speech"] = "speech"
    model: str = DEFAULT_SPEECH_MODEL
    """A name of the catalogue (`backfill models list`) or the path of a folder in CTranslate2's format."""
    endpoints: tuple[_AudioEndpoint, ...] = ()
    workers: int = Field(0, ge=0, le=_CONCURRENCY_MAX)
    """Threads that compute, each on a core of its own; 0: one for each core."""
    concurrency: int = Field(0, ge=0, le=_CONCURRENCY_MAX)
    """Clips worked on side by side; 0: as many as fill the batches of all workers."""
    batch_size: int = Field(4, ge=1, le=64)
    """Stretches of 30 seconds at most that a worker hears together."""
    beam_size: int = Field(5, ge=1, le=64)
    compute_type: Literal["int8", "int8_float32", "int16", "bfloat16", "float32", "default"] = "int8"
    """default: as the model's file has it."""


class _Served(_Engine):
    """What goes for any server of OpenAI's shape: how many requests it bears is found while it works."""

    concurrency: int = Field(_CONCURRENCY_MAX, ge=1)
    """Requests in flight at most: a ceiling."""
    first_concurrency: int = Field(16, ge=1)
    """Requests in flight before anything is known of the engine."""

    @field_validator("endpoints")
    @classmethod
    def _check_endpoints(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            if not _PATH.fullmatch(path):
                raise ValueError(f'must be paths such as "/v1/rerank"; {path[:100]!r} is none')
            if path.split("/")[1] in _VERSIONED:
                raise ValueError(f'must have their version; write "/v1{path[:100]}"')
        return value

    def narrow(self, served: frozenset[str]) -> frozenset[str]:
        """What is listed, be it known here or not; else all that is."""
        return frozenset(self.endpoints) or served


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
            raise ValueError("must begin with http:// or https://")
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
    AutoEngineConfig
    | OpenVinoEngineConfig
    | LlamaCppEngineConfig
    | SpeechEngineConfig
    | ExternalEngineConfig
    | ManagedEngineConfig,
    Field(discriminator="kind"),
]


def default_engines() -> dict[str, EngineConfig]:
    """Those that there are where none is configured: the built-in one, a process for each kind of endpoint."""
    return {
        "local": AutoEngineConfig(),
        "local-embeddings": LlamaCppEngineConfig(embeddings=True),
        "local-responses": LlamaCppEngineConfig(endpoints=("/v1/responses",)),
        "local-audio": SpeechEngineConfig(models=dict.fromkeys((*_SPEECH_IDS, "*"), "")),
    }
