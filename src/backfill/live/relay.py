"""Live requests at a process without engines: each is passed on to one that has some, which sends it ahead of lines.

Only that one can make room for it among the lines of batches, and reach engines that run inside its own process or on
its own machine. It never passes it on again.
"""

import asyncio
import ipaddress
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol
from urllib.parse import quote

import msgspec
import structlog
from yarl import URL

from backfill.api_key import Caller
from backfill.batch import ENDPOINTS
from backfill.config import LiveConfig
from backfill.engines import FORWARD_TIMEOUT, NOT_SENT, EngineClient, ForwardedAnswer
from backfill.errors import BackfillError, EngineUnavailable, InvalidInput
from backfill.live.answer import LiveAnswer
from backfill.live.limits import Admission, LiveLimits
from backfill.live.relay_words import FAILURE_HEADER, OWNER_HEADER, RELAY_PATH, make_relay_key
from backfill.live.traffic import explain_failure, explain_unknown_model, read_checked
from backfill.live.usage import LiveRequest, UsageReader
from backfill.status import ReplicaState, WorkerReport, WorkerStatus

__all__ = ["RelayedTraffic", "WorkersSeen"]

_ANY = "*"
# Of those that are silent: where the database is away nobody can tell of himself, and all may be well.
_SILENT_TRIED = 2
_CONNECT_TIMEOUT_S = 3.0
_log = structlog.get_logger(__name__)


class WorkersSeen(Protocol):
    """The processes with engines, as they told last of themselves."""

    @property
    def workers(self) -> Sequence[WorkerStatus]:
        """All that have not ended in order, those that are silent among them."""

    @property
    def living(self) -> Sequence[WorkerStatus]:
        """Those of them that are not silent."""

    @property
    def remembered(self) -> Sequence[WorkerStatus]:
        """All that told of themselves within the last hour."""


class _Failure(msgspec.Struct):
    message: str = ""
    param: str | None = None


class _FailureBody(msgspec.Struct):
    error: _Failure = msgspec.field(default_factory=_Failure)


_failure = msgspec.json.Decoder(_FailureBody)


class _Candidate(NamedTuple):
    worker: WorkerStatus
    replicas: frozenset[str]
    """Those that serve what is asked for."""


class RelayedTraffic:
    """All live requests of a process without engines."""

    def __init__(
        self,
        seen: WorkersSeen,
        config: LiveConfig,
        secret: bytes,
        request_timeout_s: float,
        resolve_alias: Callable[[str], str] = str,
        limits: LiveLimits | None = None,
    ) -> None:
        """`secret`: that of the installation. `resolve_alias` gives the id that a name stands for."""
        self._seen = seen
        self._config = config
        self._secret = secret
        self._resolve_alias = resolve_alias
        self._limits = limits or LiveLimits(config, asyncio.get_running_loop().time)
        # The worker itself gives up before, and says why.
        patience_s = config.start_timeout_s + request_timeout_s + _CONNECT_TIMEOUT_S
        self._client = EngineClient(patience_s, connect_timeout_s=_CONNECT_TIMEOUT_S)
        self._under_way: Counter[str] = Counter()
        """Worker -> requests of this process that are there."""
        self._doubted: dict[str, int] = {}
        """Worker that was not reached -> when it had told of itself last, in ms since the epoch."""

    @property
    def body_size_max_bytes(self) -> int:
        """How large a request may be."""
        return self._config.body_size_bytes

    def check(self, endpoint: str, body: bytes) -> LiveRequest:
        """See `Traffic`; a model that some worker had within the last hour is known."""
        request = read_checked(endpoint, body)
        # Without any worker nobody can say which models there are.
        if self._seen.living and not self._is_known(request.model, endpoint):
            others = [other for other in ENDPOINTS if self._is_known(request.model, other)]
            raise explain_unknown_model(request.model, endpoint, others)
        return request

    async def admit(self, caller: Caller, request: LiveRequest) -> Admission:
        """See `Traffic`."""
        return self._limits.admit(caller, request.tokens)

    async def open(self, caller: Caller, endpoint: str, request: LiveRequest, body: bytes) -> LiveAnswer:
        """See `Traffic`; a worker that cannot be reached, or is lost before it answers, is passed over."""
        try:
            answer = await self._pass_on(caller, endpoint, request, body)
        except BackfillError:
            self._limits.correct(caller, -request.tokens)
            raise
        if self._limits.counts_tokens(caller):
            answer.count(UsageReader(request), lambda used: self._limits.correct(caller, used - request.tokens))
        return answer

    async def close(self) -> None:
        """Close the connections to workers."""
        await self._client.close()

    async def _pass_on(self, caller: Caller, endpoint: str, request: LiveRequest, body: bytes) -> LiveAnswer:
        failure = EngineUnavailable("No process with engines that serves this model runs now; try again soon.")
        for worker in self._order(self._find_candidates(request.model, endpoint)):
            stay = _Visit(self._under_way, worker.id)
            try:
                answer = await self._ask(worker, caller.owner, endpoint, request.model, body)
            except EngineUnavailable as error:
                stay.leave()
                failure = error
                if error.code != NOT_SENT:
                    raise
            except BaseException:
                stay.leave()
                raise
            else:
                return LiveAnswer(answer, stay)
        raise failure

    async def _ask(self, worker: WorkerStatus, owner: str, endpoint: str, model: str, body: bytes) -> ForwardedAnswer:
        """Raises what the worker raised; EngineUnavailable with `NOT_SENT` if another one may have the request."""
        headers = {
            "Authorization": f"Bearer {make_relay_key(self._secret, worker.id)}",
            OWNER_HEADER: quote(owner, safe=""),
        }
        url = URL(worker.report.address).joinpath(f"{RELAY_PATH}{endpoint}".lstrip("/"))
        try:
            answer = await self._client.forward(url, headers, body)
        except EngineUnavailable as error:
            _log.warning("live request not answered by a worker", worker=worker.id, reason=error.message)
            known = {each.id for each in self._seen.workers}
            self._doubted = {name: at_ms for name, at_ms in self._doubted.items() if name in known}
            self._doubted[worker.id] = worker.seen_at_ms
            # Nothing of an answer has come, and what a worker had under way has ended with it.
            code = error.code if error.code == FORWARD_TIMEOUT else NOT_SENT
            raise explain_failure(model, EngineUnavailable(error.message, code=code)) from None
        self._doubted.pop(worker.id, None)
        failed = next((value.decode() for name, value in answer.headers if name == FAILURE_HEADER.encode()), None)
        if failed is not None:
            raise await _read_failure(answer, failed)
        return answer

    def _find_candidates(self, model: str, endpoint: str) -> list[_Candidate]:
        """Who serves it: as among engines those that list the name, else its id, else those that take any."""
        living = {worker.id for worker in self._seen.living}
        silent = [worker for worker in self._seen.workers if worker.id not in living]
        tried = [worker for worker in self._seen.workers if worker.id in living]
        tried += sorted(silent, key=lambda worker: -worker.seen_at_ms)[:_SILENT_TRIED]
        reached = [worker for worker in tried if _can_be_reached(worker)]
        for name in (model, self._resolve_alias(model), _ANY):
            found = [_Candidate(one, frozenset(one.report.find_replicas(name, endpoint))) for one in reached]
            serving = [candidate for candidate in found if candidate.replicas]
            if serving:
                return serving
        return []

    def _order(self, candidates: Iterable[_Candidate]) -> list[WorkerStatus]:
        """Those first that live, answered the last time and have a replica up, and of them the least busy."""
        living = {worker.id for worker in self._seen.living}

        def rank(candidate: _Candidate) -> tuple[object, ...]:
            worker, names = candidate
            replicas = [one for one in worker.report.replicas if one.name in names]
            places = sum(one.concurrency_ceiling for one in replicas) or 1
            told = sum(one.live_in_flight for one in replicas)
            is_up = any(one.state is ReplicaState.UP for one in replicas)
            # What was told is some seconds old, and others pass requests on too.
            live = max(told, self._under_way[worker.id]) / places
            lines = sum(one.in_flight for one in replicas) / places
            is_doubted = self._doubted.get(worker.id) == worker.seen_at_ms
            return (worker.id not in living, is_doubted, not is_up, live, lines, worker.id)

        return [candidate.worker for candidate in sorted(candidates, key=rank)]

    def _is_known(self, model: str, endpoint: str) -> bool:
        names = (model, self._resolve_alias(model))
        return any(_serves(one.report, names, endpoint) for one in self._seen.remembered)


class _Visit:
    """One request at a worker."""

    def __init__(self, under_way: Counter[str], worker_id: str) -> None:
        self._under_way = under_way
        self._worker_id = worker_id
        self._has_left = False
        under_way[worker_id] += 1

    def note_first_token(self, *, is_told: bool = False) -> None:
        """The worker notes it itself."""

    def leave(self) -> None:
        """It is over; only the first call counts."""
        if not self._has_left:
            self._has_left = True
            self._under_way[self._worker_id] -= 1
            if not self._under_way[self._worker_id]:
                del self._under_way[self._worker_id]


def _serves(report: WorkerReport, names: Iterable[str], endpoint: str) -> bool:
    return any(report.serves(name, endpoint) for name in names)


def _can_be_reached(worker: WorkerStatus) -> bool:
    """Whether it answers others at all; an address of loopback is one of its own machine alone."""
    if not worker.report.address:
        return False
    return not _is_loopback(URL(worker.report.address).host or "") or worker.host == socket.gethostname()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _read_failure(answer: ForwardedAnswer, code: str) -> BackfillError:
    """The error that the worker tells of."""
    body = bytearray()
    try:
        while part := await answer.read():
            body += part
        told = _failure.decode(body).error
    except (EngineUnavailable, msgspec.DecodeError):
        told = _Failure("A worker failed, and cannot say why.")
    finally:
        answer.close()
    if answer.status < 500:
        return InvalidInput(told.message, param=told.param, code=code)
    return EngineUnavailable(told.message, code=code)
