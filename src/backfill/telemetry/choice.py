"""Whether there are traces at all. Where there are none, nothing of OpenTelemetry's SDK is loaded."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from backfill.config import TelemetryConfig
from backfill.errors import InvalidConfig

if TYPE_CHECKING:
    from backfill.telemetry.tracing import Tracing

__all__ = ["open_tracing"]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def open_tracing(config: TelemetryConfig, environment: Mapping[str, str] = os.environ) -> "Tracing | None":
    """Traces to where settings or OpenTelemetry's own variables say; None if they name no place, or say no.

    Raises:
        InvalidConfig: traces are asked for, and the packages for them are not installed.

    """
    is_off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    is_off = is_off or environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    if is_off or not (config.endpoint or any(environment.get(name) for name in _ENDPOINTS)):
        return None
    try:
        from backfill.telemetry.tracing import Tracing, make_exporter  # noqa: PLC0415 - takes half a second
    except ModuleNotFoundError as error:
        message = (
            f"Traces are asked for (telemetry.endpoint or OTEL_EXPORTER_OTLP_ENDPOINT), but {error.name} is not "
            "installed. Install backfill[telemetry], or leave that away."
        )
        raise InvalidConfig(message, param="telemetry.endpoint") from None
    return Tracing(make_exporter(config.endpoint), config.engine_requests)
