"""The way of a live request: its model is found, its key has room, a replica is up, and the answer passes through."""

import asyncio
import functools
from collections.abc import Callable, Sequence

import structlog

from backfill.api_key import Caller
from backfill.batch import ENDPOINTS
from backfill.config import LiveConfig
from backfill.engines import FORWARD_TIMEOUT, NOT_SENT, Fleet, ForwardedAnswer, Replica, Route, Visit, rename_model
from backfill.errors import EngineUnavailable, InvalidInput, NotFound
from backfill.live.limits import Admission, LiveLimits
from backfill.live.media import MEDIA_CODES, LiveBody, LiveMedia
from backfill.live.usage import LiveRequest, UsageReader, read_request

__all__ = ["LiveAnswer", "LiveTraffic"]

_MODEL_LENGTH_MAX = 200
_log = structlog.get_logger(__name__)


class LiveAnswer:
    """An engine's answer with the live request's place at the engine, which `close` gives back."""

    def __init__(self, answer: ForwardedAnswer, visit: Visit) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self._answer = answer
        self._visit = visit
        if answer.begins_at_first_token:
            visit.note_first_token(is_told=True)
        self._reader: UsageReader | None = None
        self._settle: Callable[[int], None] | None = None

    def count(self, reader: UsageReader, settle: Callable[[int], None]) -> None:
        """Have the tokens counted; at the end `settle` is called with their number."""
        self._reader, self._settle = reader, settle

    async def read(self) -> bytes:
        """The next piece of the body, b"" at its end; raises EngineUnavailable if the connection was lost."""
        part = await self._answer.read()
        self._visit.note_first_token()
        if self._reader is not None:
            self._reader.note(part)
        return part

    def close(self) -> None:
        """Give up what has not been read, and leave; to be called once."""
        self._answer.close()
        self._visit.leave()
        if self._reader is not None and self._settle is not None:
            self._settle(self._reader.tokens)


class LiveTraffic:
    """All live requests of a server."""

    def __init__(self, fleet: Fleet, config: LiveConfig, media: LiveMedia | None = None) -> None:
        """`media` has what requests name; without it they are sent as they are."""
        self._fleet = fleet
        self._media = media
        self._config = config
        self._limits = LiveLimits(config, asyncio.get_running_loop().time)

    @property
    def body_size_max_bytes(self) -> int:
        """How large a request may be."""
        return self._config.body_size_bytes

    def check(self, endpoint: str, body: bytes) -> tuple[LiveRequest, Route]:
        """What the request asks for, and where it may go.

        Raises:
            InvalidInput: the body is no request at all.
            NotFound: nobody serves the model, or not on this endpoint.

        """
        request = read_request(endpoint, body)
        if not isinstance(request, LiveRequest):
            if request:
                raise InvalidInput("'model' must be the id of a model, a string.", param="model")
            raise InvalidInput("The request body is not a JSON object in UTF-8.", code="invalid_json")
        route = self._fleet.resolve(request.model, endpoint)
        if route is None:
            raise _unknown_model(self._fleet, request.model, endpoint)
        return request, route

    def admit(self, caller: Caller, request: LiveRequest) -> Admission:
        """Take the request off the key's limits, or say why it must wait."""
        return self._limits.admit(caller, request.tokens)

    async def open(self, caller: Caller, request: LiveRequest, route: Route, body: bytes) -> LiveAnswer:
        """Send an admitted request and give its answer as soon as it begins; a cancel ends the engine's work on it.

        Raises:
            EngineUnavailable: no replica could answer, or something that the request names could not be had now.
            InvalidInput: the request names something that never can be had, or that no engine takes.

        """
        if self._media is None or not request.may_name_media:
            return await self._send(caller, request, route, body, None)
        try:
            async with self._media.open(caller.owner, route, body) as whole:
                return await self._send(caller, request, route, body, whole)
        except (InvalidInput, EngineUnavailable) as error:
            if error.code in MEDIA_CODES:
                self._limits.correct(caller, -request.tokens)
            raise

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
        raise _tell(request.model, failure)

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


def _tell(model: str, failure: EngineUnavailable) -> EngineUnavailable:
    """What the client is told: addresses, paths and an engine's own words are for the log."""
    words = {
        NOT_SENT: "cannot be reached now, or is being started; try again soon",
        FORWARD_TIMEOUT: "did not answer in time",
    }
    said = words.get(failure.code, "broke off before it answered")
    return EngineUnavailable(f"The engine that serves the model {_shorten(model)!r} {said}.", code=failure.code)


def _shorten(model: str) -> str:
    return model if len(model) <= _MODEL_LENGTH_MAX else f"{model[:_MODEL_LENGTH_MAX]}…"


def _unknown_model(fleet: Fleet, model: str, endpoint: str) -> NotFound:
    shown = _shorten(model)
    others = [other for other in ENDPOINTS if fleet.resolve(model, other) is not None]
    if others:
        message = f"The model {shown!r} is served here at {', '.join(others)}, not at {endpoint}."
    else:
        message = f"The model {shown!r} is not served here. GET /v1/models lists those that are."
    return NotFound(message, code="model_not_found", param="model")
