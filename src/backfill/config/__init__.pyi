from .catalogue import CatalogueConfig, CatalogueModelConfig
from .engines import (
    DEFAULT_MODEL,
    DEFAULT_SPEECH_MODEL,
    AutoEngineConfig,
    EngineConfig,
    ExternalEngineConfig,
    LlamaCppEngineConfig,
    ManagedEngineConfig,
    OpenVinoEngineConfig,
    SpeechEngineConfig,
)
from .loading import Config, load_config
from .media import MediaConfig
from .money import MoneyConfig
from .ray import RayConfig, ReplicasConfig
from .retention import RetentionConfig
from .sections import DispatchConfig, LimitsConfig, LiveConfig, Role, ServerConfig, TelemetryConfig, WebhooksConfig
from .store import StoreConfig

__all__ = [
    "DEFAULT_MODEL",
    "DEFAULT_SPEECH_MODEL",
    "AutoEngineConfig",
    "CatalogueConfig",
    "CatalogueModelConfig",
    "Config",
    "DispatchConfig",
    "EngineConfig",
    "ExternalEngineConfig",
    "LimitsConfig",
    "LiveConfig",
    "LlamaCppEngineConfig",
    "ManagedEngineConfig",
    "MediaConfig",
    "MoneyConfig",
    "OpenVinoEngineConfig",
    "RayConfig",
    "ReplicasConfig",
    "RetentionConfig",
    "Role",
    "ServerConfig",
    "SpeechEngineConfig",
    "StoreConfig",
    "TelemetryConfig",
    "WebhooksConfig",
    "load_config",
]
