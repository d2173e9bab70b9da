"""All replicas together: which of them serve a model, and under what name."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import msgspec

from backfill.batch import ENDPOINTS
from backfill.config import (
    AutoEngineConfig,
    Config,
    EngineConfig,
    ExternalEngineConfig,
    LlamaCppEngineConfig,
    ManagedEngineConfig,
    OpenVinoEngineConfig,
    SpeechEngineConfig,
)
from backfill.engines.auto import AutoReplica
from backfill.engines.client import EngineClient
from backfill.engines.external import ExternalReplica
from backfill.engines.llamacpp.replica import LlamaCppReplica
from backfill.engines.managed.replica import ManagedReplica, name_served_model
from backfill.engines.models.catalogue import name_alias
from backfill.engines.openvino.replica import OpenVinoReplica
from backfill.engines.presence import Presence
from backfill.engines.replica import Replica
from backfill.engines.speech.replica import SpeechReplica
from backfill.status import Offer, ServedModel

__all__ = ["Fleet", "Member", "Route", "rename_model"]

_ANY = "*"
_USUAL = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"})
_SELDOM = frozenset(ENDPOINTS) - _USUAL
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
    ask_for_models: Callable[[], Awaitable[Iterable[str]]] | None = None
    """Where it is not: asks the engine for the ids that it has now."""
    guessed: frozenset[str] = frozenset()
    """Endpoints that it may or may not have: nobody said so."""

    def serves(self, model: str, endpoint: str) -> bool:
        """Whether the replica lists this very id for the endpoint."""
        return model in self.models and endpoint in self.replica.limits.endpoints


class Fleet:
    """The replicas of one server. Nothing is started here: a replica starts when its `start` is called."""

    def __init__(
        self,
        members: Sequence[Member],
        client: EngineClient | None = None,
        resolve_alias: Callable[[str], str] = str,
    ) -> None:
        self._members = tuple(members)
        self.presences: Mapping[str, Presence] = {member.replica.name: Presence() for member in self._members}
        """Replica name -> the live requests there."""
        self._client = client
        self._resolve_alias = resolve_alias
        self._routes: dict[tuple[str, str], Route | None] = {}

    @classmethod
    def from_config(cls, config: Config, resolve_alias: Callable[[str], str] = str) -> Self:
        """Build every replica of `config.engines`, all over one client.

        `resolve_alias` gives the id that a name stands for, which may be the name itself.
        """
        client = EngineClient(config.dispatch.request_timeout_s)
        members = [_make_member(name, engine, config, client) for name, engine in config.engines.items()]
        return cls(members, client, resolve_alias)

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

        An engine that lists the name beats one that lists the id for which the name is an alias, and that one all that
        take any id: those are then not used, even while the first is down. Of those that are left, who is said to have
        the endpoint beats who only may have it, where it is none of the usual ones.
        """
        key = (model, endpoint)
        if key not in self._routes:
            if len(self._routes) >= _ROUTES_KEPT:
                self._routes.clear()
            self._routes[key] = self._find_route(model, endpoint)
        return self._routes[key]

    def served_models(self, endpoint: str | None = None) -> list[str]:
        """The ids that are known to be served, sorted; an engine that takes any id adds its own model's, if known.

        `endpoint`: there; None: anywhere.
        """
        serving = [each for each in self._members if endpoint is None or endpoint in each.replica.limits.endpoints]
        ids = {model for member in serving for model in member.models if model != _ANY}
        ids |= {member.own_model for member in serving if member.own_model and _ANY in member.models}
        return sorted(ids)

    @property
    def endpoints_of_any(self) -> tuple[str, ...]:
        """Where some engine takes any model, sorted."""
        taking = [member.replica.limits.endpoints for member in self._members if _ANY in member.models]
        return tuple(sorted({endpoint for endpoints in taking for endpoint in endpoints}))

    @property
    def offers(self) -> dict[str, Offer]:
        """Replica -> what it takes."""
        return {
            member.replica.name: Offer(tuple(member.models), tuple(sorted(member.replica.limits.endpoints)))
            for member in self._members
        }

    async def list_models(self) -> list[ServedModel]:
        """The same with their endpoints, and with what engines that take any id say that they have, now."""
        found: dict[str, set[str]] = {}
        for member, others in zip(self._members, await self._ask_for_models(), strict=True):
            own = {model for model in member.models if model != _ANY}
            if _ANY in member.models:
                own |= {model for model in (member.own_model, *others) if model}
            for model in own:
                found.setdefault(model, set()).update(member.replica.limits.endpoints)
        return [ServedModel(model, tuple(sorted(endpoints))) for model, endpoints in sorted(found.items())]

    async def stop(self) -> None:
        """Stop all replicas side by side and close the connections; safe to call twice."""
        await asyncio.gather(*(member.replica.stop() for member in self._members))
        if self._client is not None:
            await self._client.close()

    async def _ask_for_models(self) -> list[Iterable[str]]:
        """What each member says that it has; nothing from one whose ids are known, or that says nothing."""

        async def ask(member: Member) -> Iterable[str]:
            return await member.ask_for_models() if member.ask_for_models and _ANY in member.models else ()

        return await asyncio.gather(*map(ask, self._members))

    def _find_route(self, model: str, endpoint: str) -> Route | None:
        identity = self._resolve_alias(model)
        for listed, name in ((model, model), (identity, identity), (_ANY, identity)):
            serving = [member for member in self._members if member.serves(listed, endpoint)]
            # A server of texts that takes any id must not get the clips beside one that hears.
            serving = [member for member in serving if endpoint not in member.guessed] or serving
            if serving:
                names = {member.replica.name: member.models[listed] or name for member in serving}
                return Route(model, endpoint, tuple(member.replica for member in serving), names)
        return None


def _make_member(name: str, engine: EngineConfig, config: Config, client: EngineClient) -> Member:
    log_dir = config.data_dir / "engines"
    guessed = frozenset() if engine.endpoints else _SELDOM
    if isinstance(engine, ExternalEngineConfig):
        external = ExternalReplica(name, engine, client)
        # Under a name of its own it takes any id, and what it has is not what a request would ask for.
        asked = None if engine.models.get(_ANY) else external.list_models
        return Member(external, engine.models, own_model=engine.models.get(_ANY), ask_for_models=asked, guessed=guessed)
    if isinstance(engine, ManagedEngineConfig):
        served = name_served_model(engine)
        # It knows its model by one name; what has a name of its own here is an adapter that `arguments` load.
        models = {model: there or served for model, there in engine.models.items()}
        managed = ManagedReplica(name, engine, client, log_dir=log_dir)
        return Member(managed, models, own_model=served, guessed=guessed)
    places = {"models_dir": config.models_dir, "log_dir": log_dir}
    replica: Replica
    match engine:
        case AutoEngineConfig():
            replica = AutoReplica(name, engine, client, **places)
        case OpenVinoEngineConfig():
            replica = OpenVinoReplica(name, engine, client, **places)
        case LlamaCppEngineConfig():
            replica = LlamaCppReplica(name, engine, client, **places)
        case SpeechEngineConfig():
            replica = SpeechReplica(name, engine, client, media=config.media, **places)
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
