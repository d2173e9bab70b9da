"""The settings of a run without a server: the user's own, but for what such a run needs otherwise."""

import sys
from pathlib import Path
from typing import Any

from backfill.batch import AUDIO_ENDPOINTS
from backfill.config import (
    AutoEngineConfig,
    Config,
    EngineConfig,
    LlamaCppEngineConfig,
    OpenVinoEngineConfig,
    SpeechEngineConfig,
    load_config,
)

__all__ = ["choose_model", "configure_run", "limit_concurrency", "list_built_in_models"]

_EMBEDDINGS, _RESPONSES = "/v1/embeddings", "/v1/responses"
_CHAT_AND_TEXT = ("/v1/chat/completions", "/v1/completions")
_WINDOW_H = 10_000 * 24.0


def configure_run(
    config_file: Path | None, state: Path, *, model: str | None, engine: str | None, api_key: str | None
) -> Config:
    """The user's settings, but for the engine that was named, the state folder, and no limits on the file."""
    overrides: dict[str, Any] = {
        # A run tells its end to whoever started it.
        "webhooks": {},
        # Its rows and files are its own, whatever a server shares with others.
        "store": {},
        "data_dir": state.absolute(),
        "limits.lines": 2**32 - 1,
        "limits.file_size_bytes": sys.maxsize,
        # A run has no deadline but the user's patience.
        "limits.window_max_h": _WINDOW_H,
        "limits.window_h": _WINDOW_H,
    }
    if engine is not None:
        overrides["engines"] = {"external": {"url": engine, "api_key": api_key, "models": {"*": model or ""}}}
    elif model is not None:
        overrides["engines"] = {
            "local": {"model": model},
            "local-embeddings": {"model": model, "kind": "llamacpp", "embeddings": True},
            "local-responses": {"model": model, "kind": "llamacpp", "endpoints": [_RESPONSES]},
            "local-audio": {"model": model, "kind": "speech"},
        }
    return load_config(config_file, overrides=overrides)


def limit_concurrency(config: Config, concurrency: int | None) -> Config:
    """The settings with so many requests in flight at most, for each engine."""
    if concurrency is None:
        return config

    def limit(engine: EngineConfig) -> EngineConfig:
        names = {"slots", "concurrency"} & set(type(engine).model_fields)
        return engine.model_copy(update=dict.fromkeys(names, concurrency))

    return config.model_copy(update={"engines": {name: limit(engine) for name, engine in config.engines.items()}})


def list_built_in_models(config: Config, endpoint: str) -> list[str]:
    """The models that the built-in engines for the endpoint run."""
    kinds = (AutoEngineConfig, OpenVinoEngineConfig, LlamaCppEngineConfig, SpeechEngineConfig)
    return [
        engine.model for engine in config.engines.values() if isinstance(engine, kinds) and _serves(engine, endpoint)
    ]


def choose_model(config: Config, endpoint: str) -> str | None:
    """The model of requests that name none, where the engines for the endpoint leave no choice; None if they do."""
    found: set[str] = set()
    for engine in config.engines.values():
        if _serves(engine, endpoint):
            own = getattr(engine, "model", "")
            found |= {own} if own else {name for name in engine.models if name != "*"} or {""}
    return found.pop() or None if len(found) == 1 else None


def _serves(engine: EngineConfig, endpoint: str) -> bool:
    """Whether an engine is for the endpoint, as far as its settings tell."""
    if isinstance(engine, (AutoEngineConfig, OpenVinoEngineConfig)):
        serves = endpoint in _CHAT_AND_TEXT
    elif isinstance(engine, LlamaCppEngineConfig):
        serves = endpoint == _EMBEDDINGS if engine.embeddings else endpoint in (*_CHAT_AND_TEXT, _RESPONSES)
    elif isinstance(engine, SpeechEngineConfig):
        serves = endpoint in AUDIO_ENDPOINTS
    else:
        serves = True
    return serves and bool(engine.narrow(frozenset({endpoint})))
