"""What can be set, where it comes from and what its default is.

A setting comes from `backfill.toml`, then from the environment (`BACKFILL_SERVER__PORT=9000` sets `server.port`),
then from command-line options; the later one wins. An unknown key is refused with the nearest known one.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import BaseModel, Field, ValidationError, model_validator

from backfill.config.catalogue import CatalogueConfig, CatalogueModelConfig
from backfill.config.engines import (
    AutoEngineConfig,
    EngineConfig,
    ExternalEngineConfig,
    LlamaCppEngineConfig,
    ManagedEngineConfig,
    OpenVinoEngineConfig,
    default_engines,
)
from backfill.config.media import MediaConfig
from backfill.config.money import MoneyConfig
from backfill.config.ray import RayConfig, ReplicasConfig
from backfill.config.retention import RetentionConfig
from backfill.config.sections import (
    DispatchConfig,
    LimitsConfig,
    LiveConfig,
    Role,
    Section,
    ServerConfig,
    TelemetryConfig,
    WebhooksConfig,
)
from backfill.config.store import StoreConfig
from backfill.errors import InvalidConfig
from backfill.validation import describe_fault

__all__ = ["Config", "load_config"]

_ENVIRONMENT_PREFIX = "BACKFILL_"
# Read by the command line or the fault points, not by this file.
_OTHER_VARIABLES = frozenset({"BACKFILL_CONFIG", "BACKFILL_URL", "BACKFILL_API_KEY", "BACKFILL_FAULT"})


class Config(Section):
    """Everything that can be set."""

    data_dir: Path = Field(default_factory=lambda: platformdirs.user_data_path("backfill"))
    """Files, batches and journals; one server at a time may hold it."""
    models_dir: Path = Field(default_factory=lambda: platformdirs.user_cache_path("backfill") / "models")
    """GGUF files that `backfill models pull` fetched."""
    quarantine_h: float = Field(168.0, ge=0)
    """How long what a crash left half-done of a file is kept before it is removed."""
    store: StoreConfig = StoreConfig()
    server: ServerConfig = ServerConfig()
    limits: LimitsConfig = LimitsConfig()
    dispatch: DispatchConfig = DispatchConfig()
    live: LiveConfig = LiveConfig()
    webhooks: WebhooksConfig = WebhooksConfig()
    media: MediaConfig = MediaConfig()
    money: MoneyConfig = MoneyConfig()
    catalogue: CatalogueConfig = CatalogueConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    retention: RetentionConfig = RetentionConfig()
    ray: RayConfig = RayConfig()
    engines: dict[str, EngineConfig] = Field(default_factory=default_engines)

    @property
    def engines_on_ray(self) -> dict[str, EngineConfig]:
        """Those that the scaler has started, on other machines maybe."""
        return {name: engine for name, engine in self.engines.items() if engine.place == "ray"}

    def find_own_engines(self, role: Role) -> dict[str, EngineConfig]:
        """Those that a process with these settings has itself in that role, whatever role they name."""
        if role is Role.API:
            return {}
        if role is Role.SCALE:
            return self.engines_on_ray
        if self.server.engine and role is Role.WORK:
            return {self.server.engine: self.engines[self.server.engine]}
        return {name: engine for name, engine in self.engines.items() if engine.place != "ray"}

    @property
    def listed_endpoints(self) -> frozenset[str]:
        """What engines are said to serve by name, be it known or not."""
        return frozenset(path for engine in self.engines.values() for path in engine.endpoints)

    @model_validator(mode="after")
    def _check_engines(self) -> "Config":
        if not self.engines:
            raise ValueError("at least one engine is needed; leave [engines] out for the built-in one")
        if self.server.engine and self.server.engine not in self.engines:
            known = ", ".join(self.engines)
            message = f"server.engine must be the name of an engine ({known}); {self.server.engine[:100]!r} is none"
            raise ValueError(message)
        if self.server.engine and self.server.role is not Role.WORK:
            raise ValueError('server.engine needs server.role = "work"')
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
        raise InvalidConfig(f"The configuration file {chosen} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = f"byte {error.start + 1} is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        message = f"The configuration file {chosen} is not valid TOML: {reason}."
        raise InvalidConfig(message) from None


def _merge_environment(settings: dict[str, Any], environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if not name.startswith(_ENVIRONMENT_PREFIX) or name in _OTHER_VARIABLES:
            continue
        dotted = name.removeprefix(_ENVIRONMENT_PREFIX).lower().split("__")
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
    """`kind` need not be written: "external" with a `url`, "llamacpp" with `embeddings` or `projector`, else "auto"."""
    engines = settings.get("engines")
    if isinstance(engines, dict):
        for engine in engines.values():
            if isinstance(engine, dict):
                is_llamacpp = "embeddings" in engine or "projector" in engine
                kind = "external" if "url" in engine else "llamacpp" if is_llamacpp else "auto"
                engine.setdefault("kind", kind)


_SECTIONS: dict[str, type[BaseModel]] = {
    "store": StoreConfig,
    "server": ServerConfig,
    "limits": LimitsConfig,
    "dispatch": DispatchConfig,
    "live": LiveConfig,
    "webhooks": WebhooksConfig,
    "media": MediaConfig,
    "money": MoneyConfig,
    "catalogue": CatalogueConfig,
    "models": CatalogueModelConfig,
    "telemetry": TelemetryConfig,
    "retention": RetentionConfig,
    "ray": RayConfig,
    "replicas": ReplicasConfig,
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
    if location[:1] == ["engines"] and len(location) > 2:
        del location[2]
    return ".".join(location)


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    dotted = _dotted(error)
    if first["type"] != "extra_forbidden":
        reason = ("" if first["type"] == "value_error" else "it ") + describe_fault(first)
        return f"The setting {dotted!r} is not valid: {reason}." if dotted else f"The settings are not valid: {reason}."
    owner = next((_SECTIONS[part] for part in reversed(location[:-1]) if part in _SECTIONS), Config)
    known = sorted(owner.model_fields)
    near = difflib.get_close_matches(location[-1], known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known here: {', '.join(known)}."
    return f"Unknown setting {dotted!r}. {hint}"
