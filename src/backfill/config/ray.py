"""Engines on the nodes of a Ray cluster: how many, what each needs, and where the cluster is."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from backfill.config.sections import Section

__all__ = ["Place", "RayConfig", "ReplicasConfig", "Resources"]

Place = Literal["here", "ray"]
Resources = dict[
    Annotated[str, Field(min_length=1, max_length=100)], Annotated[float, Field(gt=0, allow_inf_nan=False)]
]
_REPLICAS_MAX = 10_000


class ReplicasConfig(Section):
    """Of one engine: so many are kept while there is nothing to do, and at most."""

    min: int = Field(0, ge=0, le=_REPLICAS_MAX)
    max: int = Field(1, ge=1, le=_REPLICAS_MAX)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min > self.max:
            raise ValueError("min must not be more than max")
        return self


class RayConfig(Section):
    """The cluster, and when replicas come and go. Nothing of it is secret: Ray shows it to whoever may look there."""

    address: str = Field("auto", min_length=1, max_length=1024)
    """Of the cluster's head, as "host:port"; "auto": the one that this machine is a node of."""
    namespace: str = Field("backfill", min_length=1, max_length=100)
    """Under which the actors have their names."""
    config_file: str = Field("", max_length=4096)
    """The settings of workers, a path on their nodes; empty: as BACKFILL_CONFIG says there."""
    idle_s: float = Field(300.0, ge=0)
    """For so long there must be more replicas than needed before the first one is stopped."""
    clear_s: float = Field(600.0, gt=0)
    """Replicas are added until what waits would be done in that time."""
    start_s: float = Field(60.0, ge=0)
    """How long a replica takes from its start to its first answer: one that could not be ready before a deadline is not
    started for it."""

    @field_validator("address")
    @classmethod
    def _check_address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value != "auto" and not (host and port.isascii() and port.isdigit() and "/" not in host):
            raise ValueError('must be "auto" or an address such as "ray-head:6379"')
        return value
