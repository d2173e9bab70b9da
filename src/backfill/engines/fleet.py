"""All replicas together: which of them serve a model, and under what name."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import msgspec

from backfill.config import (
    AutoEngineConfig,
    Config,
    EngineConfig,
    ExternalEngineConfig,
    LlamaCppEngineConfig,
    ManagedEngineConfig,
    OpenVinoEngineConfig,
)
from backfill.engines.auto import AutoReplica
from backfill.engines.client import EngineClient
from backfill.engines.external import ExternalReplica
from backfill.engines.llamacpp import LlamaCppReplica
from backfill.engines.managed import ManagedReplica, name_served_model
from backfill.engines.models import name_alias
from backfill.engines.openvino import OpenVinoReplica
from backfill.engines.replica import Replica

__all__ = ["Fleet", "Member", "Route", "rename_model"]

_ANY = "*"
# A batch may name as many models as it has lines; the answers kept for them are bounded.
_ROUTES_KEPT = 1024
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Route:
    """Where requests for one model and endpoint may go."""

    model: str
    endpoint: str
    replicas: tuple[Replica, ...]
    """In the order of the configuration; never empty."""
    names: Mapping[str, str]
    """Replica name -> name of the model there."""


@dataclass(frozen=True, slots=True)
class Member:
    """A replica and the ids it serves: id in the batch -> name there, where "*" is any id and "" the same id."""

    replica: Replica
    models: Mapping[str, str]
    own_model: str | None = None
    """The id to show for a "*", where it is known."""

    def serves(self, model: str, endpoint: str) -> bool:
        """Whether the replica lists this very id for the endpoint."""
        return model in self.models and endpoint in self.replica.limits.endpoints


class Fleet:
    """The replicas of one server. Nothing is started here: a replica starts when its `start` is called."""

    def __init__(self, members: Sequence[Member], client: EngineClient | None = None) -> None:
        self._members = tuple(members)
        self._client = client
        self._routes: dict[tuple[str, str], Route | None] = {}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Build every replica of `config.engines`, all over one client."""
        client = EngineClient(config.dispatch.request_timeout_s)
        members = [_make_member(name, engine, config, client) for name, engine in config.engines.items()]
        return cls(members, client)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """Every replica, in the order of the configuration."""
        return tuple(member.replica for member in self._members)

    def resolve(self, model: str, endpoint: str) -> Route | None:
        """Where such requests may go; None if nobody serves them.

        An engine that lists the id beats all that take any id: those are then not used, even while the first is down.
        """
        key = (model, endpoint)
        if key not in self._routes:
            if len(self._routes) >= _ROUTES_KEPT:
                self._routes.clear()
            self._routes[key] = self._find_route(model, endpoint)
        return self._routes[key]

    def served_models(self) -> list[str]:
        """The ids that are known to be served, sorted; an engine that takes any id adds its own model's, if known."""
        ids = {model for member in self._members for model in member.models if model != _ANY}
        ids |= {member.own_model for member in self._members if member.own_model and _ANY in member.models}
        return sorted(ids)

    async def stop(self) -> None:
        """Stop all replicas side by side and close the connections; safe to call twice."""
        await asyncio.gather(*(member.replica.stop() for member in self._members))
        if self._client is not None:
            await self._client.close()

    def _find_route(self, model: str, endpoint: str) -> Route | None:
        for listed in (model, _ANY):
            serving = [member for member in self._members if member.serves(listed, endpoint)]
            if serving:
                names = {member.replica.name: member.models[listed] or model for member in serving}
                return Route(model, endpoint, tuple(member.replica for member in serving), names)
        return None


def _make_member(name: str, engine: EngineConfig, config: Config, client: EngineClient) -> Member:
    log_dir = config.data_dir / "engines"
    if isinstance(engine, ExternalEngineConfig):
        return Member(ExternalReplica(name, engine, client), engine.models)
    if isinstance(engine, ManagedEngineConfig):
        served = name_served_model(engine)
        # It knows its model by one name; what has a name of its own here is an adapter that `arguments` load.
        models = {model: there or served for model, there in engine.models.items()}
        return Member(ManagedReplica(name, engine, client, log_dir=log_dir), models, own_model=served)
    places = {"models_dir": config.models_dir, "log_dir": log_dir}
    replica: Replica
    match engine:
        case AutoEngineConfig():
            replica = AutoReplica(name, engine, client, **places)
        case OpenVinoEngineConfig():
            replica = OpenVinoReplica(name, engine, client, **places)
        case LlamaCppEngineConfig():
            replica = LlamaCppReplica(name, engine, client, **places)
    return Member(replica, engine.models, own_model=name_alias(engine.model))


def rename_model(body: bytes, name: str) -> bytes:
    """The body with `name` as its "model", every other member byte for byte as it was.

    A body that is no JSON object comes back as it is: to refuse it is the engine's part.
    """
    try:
        members = _object.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body
    members["model"] = msgspec.Raw(msgspec.json.encode(name))
    return msgspec.json.encode(members)
