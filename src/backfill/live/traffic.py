"""The way of a live request: its model is found, its key has room, a replica is up, and the answer passes through."""

import asyncio
import functools
from collections.abc import Sequence
from typing import Protocol

import structlog

from backfill.api_key import Caller
from backfill.batch import ENDPOINTS
from backfill.config import LiveConfig
from backfill.engines import FORWARD_TIMEOUT, NOT_SENT, Fleet, Replica, Route, rename_model
from backfill.errors import EngineUnavailable, InvalidInput, NotFound
from backfill.live.answer import LiveAnswer
from backfill.live.limits import Admission, LiveLimits
from backfill.live.media import MEDIA_CODES, LiveBody, LiveMedia
from backfill.live.usage import LiveRequest, UsageReader, read_request

__all__ = ["LiveTraffic", "Traffic", "explain_failure", "explain_unknown_model", "read_checked"]

_MODEL_LENGTH_MAX = 200
_log = structlog.get_logger(__name__)


class Traffic(Protocol):
    """All live requests of a process, wherever they are answered."""

    @property
    def body_size_max_bytes(self) -> int:
        """How large a request may be."""

    def check(self, endpoint: str, body: bytes) -> LiveRequest:
        """What the request asks for.

        Raises:
            InvalidInput: the body is no request at all.
            NotFound: nobody serves the model, or not on this endpoint.

        """

    async def admit(self, caller: Caller, request: LiveRequest) -> Admission:
        """Take the request off the key's limits, or say why it must wait."""

    async def open(self, caller: Caller, endpoint: str, request: LiveRequest, body: bytes) -> LiveAnswer:
        """Have an admitted request answered, and give the answer as soon as it begins; a cancel ends all work on it.

        Raises:
            EngineUnavailable: nobody could answer, or something that the request names could not be had now.
            InvalidInput: the request names something that never can be had, or that no engine takes.
            NotFound: nobody serves the model any more.

        """


class LiveTraffic:
    """Those that this process answers with its own engines."""

    def __init__(
        self, fleet: Fleet, config: LiveConfig, media: LiveMedia | None = None, limits: LiveLimits | None = None
    ) -> None:
        """`media` has what requests name; without it they are sent as they are."""
        self._fleet = fleet
        self._media = media
        self._config = config
        self._limits = limits or LiveLimits(config, asyncio.get_running_loop().time)

    @property
    def body_size_max_bytes(self) -> int:
        """How large a request may be."""
        return self._config.body_size_bytes

    def check(self, endpoint: str, body: bytes) -> LiveRequest:
        """See `Traffic`."""
        request = read_checked(endpoint, body)
        self._find_route(request.model, endpoint)
        return request

    async def admit(self, caller: Caller, request: LiveRequest) -> Admission:
        """See `Traffic`."""
        return self._limits.admit(caller, request.tokens)

    async def open(self, caller: Caller, endpoint: str, request: LiveRequest, body: bytes) -> LiveAnswer:
        """See `Traffic`; a cancel ends the engine's work on it."""
        route = self._find_route(request.model, endpoint)
        if self._media is None or not request.may_name_media:
            return await self._send(caller, request, route, body, None)
        try:
            async with self._media.open(caller.owner, route, body) as whole:
                return await self._send(caller, request, route, body, whole)
        except (InvalidInput, EngineUnavailable) as error:
            if error.code in MEDIA_CODES:
                self._limits.correct(caller, -request.tokens)
            raise

    def _find_route(self, model: str, endpoint: str) -> Route:
        route = self._fleet.resolve(model, endpoint)
        if route is None:
            others = [other for other in ENDPOINTS if self._fleet.resolve(model, other) is not None]
            raise explain_unknown_model(model, endpoint, others)
        return route

    async def _send(
        self, caller: Caller, request: LiveRequest, route: Route, body: bytes, whole: LiveBody | None
    ) -> LiveAnswer:
        failure: EngineUnavailable | None = None
        for replica in self._order(route):
            visit = self._fleet.presences[replica.name].enter(len(body), is_stream=request.is_stream)
            try:
                await self._bring_up(replica)
                name = route.names[replica.name]
                sent = body if whole is None else await whole.fill(replica)
                sent = sent if name == request.model else rename_model(sent, name)
                answer = LiveAnswer(await replica.forward(route.endpoint, sent), visit)
            except EngineUnavailable as error:
                visit.leave()
                _log.warning("live request not answered", engine=replica.name, reason=error.message)
                failure = error
                if error.code != NOT_SENT:
                    break
            except BaseException:
                visit.leave()
                raise
            else:
                if self._limits.counts_tokens(caller):
                    settle = functools.partial(self._settle, caller, request.tokens)
                    answer.count(UsageReader(request), settle)
                return answer
        self._limits.correct(caller, -request.tokens)
        assert failure is not None  # noqa: S101 - a route has a replica
        raise explain_failure(request.model, failure)

    def _settle(self, caller: Caller, guessed: int, used: int) -> None:
        self._limits.correct(caller, used - guessed)

    def _order(self, route: Route) -> Sequence[Replica]:
        """Those that are up first, and of them the least busy."""
        if len(route.replicas) == 1:
            return route.replicas
        presences = self._fleet.presences
        return sorted(
            route.replicas,
            key=lambda replica: (
                replica.address is None,
                presences[replica.name].load / replica.limits.concurrency,
            ),
        )

    async def _bring_up(self, replica: Replica) -> None:
        if replica.address is not None:
            return
        if replica.limits.exclusive:
            # Whose turn in the memory it is follows from batches; one that is up is not stopped under a live request.
            message = f"Engine {replica.name!r} is not loaded: it shares its memory with others."
            raise EngineUnavailable(message, code=NOT_SENT)
        timeout_s = self._config.start_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await replica.start()
        except TimeoutError:
            message = f"Engine {replica.name!r} is not up after {timeout_s:g} s; it goes on starting."
            raise EngineUnavailable(message, code=NOT_SENT) from None
        except EngineUnavailable as error:
            raise EngineUnavailable(error.message, code=NOT_SENT) from None


def read_checked(endpoint: str, body: bytes) -> LiveRequest:
    """What the body asks for; raises InvalidInput if it is no request at all."""
    request = read_request(endpoint, body)
    if isinstance(request, LiveRequest):
        return request
    if request:
        raise InvalidInput("'model' must be the id of a model, a string.", param="model")
    raise InvalidInput("The request body is not a JSON object in UTF-8.", code="invalid_json")


def explain_failure(model: str, failure: EngineUnavailable) -> EngineUnavailable:
    """What the client is told: addresses, paths and an engine's own words are for the log."""
    words = {
        NOT_SENT: "cannot be reached now, or is being started; try again soon",
        FORWARD_TIMEOUT: "did not answer in time",
    }
    said = words.get(failure.code, "broke off before it answered")
    return EngineUnavailable(f"The engine that serves the model {_shorten(model)!r} {said}.", code=failure.code)


def explain_unknown_model(model: str, endpoint: str, others: Sequence[str]) -> NotFound:
    """Nobody serves it at the endpoint; `others`: where somebody does."""
    shown = _shorten(model)
    if others:
        message = f"The model {shown!r} is served here at {', '.join(others)}, not at {endpoint}."
    else:
        message = f"The model {shown!r} is not served here. GET /v1/models lists those that are."
    return NotFound(message, code="model_not_found", param="model")


def _shorten(model: str) -> str:
    return model if len(model) <= _MODEL_LENGTH_MAX else f"{model[:_MODEL_LENGTH_MAX]}…"
