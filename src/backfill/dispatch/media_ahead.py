"""Has what lines name on disk before their turn comes, so that no engine's place waits for a download.

So many lines are looked ahead that each place of the engines may be filled twice over, and no more of what they name
than half of what may lie on the disk: the rest would only be in the way of other batches.
"""

import asyncio
import functools
import itertools
from array import array
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from backfill.batch import AUDIO_ENDPOINTS, Outcome, Usage
from backfill.dispatch.lane import Group, Share, pays_wide
from backfill.dispatch.line_sender import LineSender, NotSent
from backfill.dispatch.media_reading import LINE_FAULTS, LineFault, MediaReader
from backfill.dispatch.media_window import MediaWindow, SeenLine
from backfill.dispatch.refusal import render_failure, render_refusal
from backfill.dispatch.turn_media import MediaTurn, TurnMedia
from backfill.engines import Lost, OnFirstToken, Refused, Replica, Reply, Route
from backfill.errors import StoreUnavailable
from backfill.media import MediaUnavailable, Named, check_fit, is_data_url, put_media_in
from backfill.media_file import MediaReference
from backfill.plan import LineGroup

__all__ = ["ComingGroup", "MediaAhead", "WaitingLane"]

_LINES_A_PLACE = 2
_LINES_LEAST = 8
_LINES_MOST = 256
# What is not longer with its pictures is made in the event loop: the way to a thread would cost more.
_SHORT_BYTES = 1 << 16
_LINES_A_LOOK = 64
# A server that does not answer must not keep from being fetched what others have.
_STALL_S = 5.0
_FIRST_LOOK_S = 0.25


class ComingGroup(Group):
    """A planned group whose lines come one by one, as what they name does."""

    __slots__ = ("home",)

    def __init__(self, planned: LineGroup) -> None:
        super().__init__(planned.prefix, array("I"), pays_wide=pays_wide(planned))
        self.home: Share | None = None
        """Of the replica that has begun it."""


class WaitingLane(Protocol):
    """A lane whose lines wait for what they name."""

    route: Route
    is_open: bool

    def await_media(self, line: int) -> None:
        """Have a line wait again for what it names, before all others."""

    def note_ready(self, line: int, group: Group | None) -> None:
        """All that the line names is here."""

    def note_settled(self) -> None:
        """A line waits no more."""


_Turn = TypeVar("_Turn", bound=MediaTurn)


class MediaAhead(Generic[_Turn]):
    """Of one lane."""

    def __init__(
        self, lane: WaitingLane, turn: _Turn, media: TurnMedia, lines: Iterator[tuple[int, ComingGroup]]
    ) -> None:
        self._lane = lane
        self._turn = turn
        self._media = media
        self.hold = media.hold
        self.config = media.config
        self._coming = lines
        self._window = MediaWindow()
        self._looking: asyncio.Task[None] | None = None
        self._has_seen_all = False
        self._knows_little = True
        self._again: deque[int] = deque()
        replicas = lane.route.replicas
        places = sum(replica.limits.concurrency for replica in replicas)
        self._lines_max = min(max(_LINES_A_PLACE * places, _LINES_LEAST), _LINES_MOST)
        self._bytes_max = media.config.cache_size_bytes // 2
        self._reader = MediaReader(turn, lane.route, media.config)
        self._named: dict[int, Named] = {}
        """What lines name that are at hand, or with an engine, or wait for another try."""
        self._untaken: dict[int, int] = {}
        """Lines at hand that nobody has taken -> bytes of what they name."""
        self._untaken_bytes = 0
        self._stalled = 0
        """Lines that have waited for so long that others are fetched for beside them."""
        self._tasks: set[asyncio.Task[None]] = set()

    def advance(self) -> None:
        """Fetch for as many lines as there is room for."""
        while self._lane.is_open and self._has_room():
            if self._again:
                self._begin(self._bring_again(self._again.popleft()))
            elif (seen := self._window.pop()) is None:
                break
            else:
                # Most pictures that several lines name are here when it is the turn of the second.
                files = [self.hold.find(reference) for reference in seen.named.fetched]
                if None in files:
                    self._begin(self._bring(*seen))
                else:
                    self._note_ready(*seen, size_bytes=sum(file.size_bytes for file in files if file is not None))
        if self._lane.is_open and self._looking is None and not self._window.is_full and not self._has_seen_all:
            self._looking = asyncio.create_task(self._look(), name="look at lines that may name media")
            self._looking.add_done_callback(self._note_look)

    def is_ready(self, line: int) -> bool:
        """Whether the line may be given out."""
        return line in self._named or not self._media.may_name(line)

    def note_taken(self, line: int) -> None:
        """A line was given out."""
        size_bytes = self._untaken.pop(line, None)
        if size_bytes is not None:
            self._untaken_bytes -= size_bytes
            self.advance()

    def bring_again(self, line: int) -> None:
        """Fetch what a line names before all others."""
        self._named.pop(line, None)
        self._again.append(line)
        self.advance()

    def stop(self) -> None:
        """Fetch nothing any more."""
        for task in self._list_tasks():
            task.cancel()

    async def end(self) -> None:
        """Return when nothing is fetched any more."""
        while tasks := self._list_tasks():
            await asyncio.wait(tasks)

    def make_sender(self, replica: Replica, line: int) -> LineSender:
        """Sends the line to the replica with what it names."""
        named = self._named.get(line)
        if named is None and not self._media.may_name(line):
            return replica.send
        return _MediaSender(self, replica, line, named)

    def forget(self, line: int) -> None:
        """A line has its outcome."""
        self._named.pop(line, None)

    def wait_again(self, line: int) -> None:
        """Have a line wait that was given out before what it names was here, or after it had to go."""
        self._lane.await_media(line)

    def _has_room(self) -> bool:
        ahead = len(self._tasks) + len(self._untaken)
        most = _LINES_LEAST if self._knows_little else self._lines_max
        if ahead - self._stalled >= most or ahead >= _LINES_MOST:
            return False
        return not ahead or self._untaken_bytes < self._bytes_max

    def _note_stall(self, stalled: list[int], line: int) -> None:
        stalled.append(line)
        self._stalled += 1
        self.advance()

    def _list_tasks(self) -> "list[asyncio.Task[None]]":
        return [*self._tasks, *([self._looking] if self._looking is not None else ())]

    def _note_look(self, task: "asyncio.Task[None]") -> None:
        self._looking = None
        self._note_end(task)

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            # The disk, or a fault of our own. That ends the turn, which is tried again, and nobody else's work.
            self._turn.fail(error)
        self.advance()

    async def _look(self) -> None:
        """Learn what the next lines name; while little is known of them, few are fetched for."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while self._lane.is_open and not self._window.is_full:
            lines = list(itertools.islice(self._coming, _LINES_A_LOOK))
            self._has_seen_all = len(lines) < _LINES_A_LOOK
            for line, group in lines:
                named = await self._read(line)
                if named is not None:
                    self._window.add(SeenLine(line, group, named))
            if self._has_seen_all:
                break
            self._knows_little &= loop.time() - began_s < _FIRST_LOOK_S
            self.advance()
            # The event loop is for others too.
            await asyncio.sleep(0)
        self._knows_little = False
        self.advance()

    async def _bring_again(self, line: int) -> None:
        named = await self._read(line)
        if named is not None:
            await self._bring(line, None, named)

    async def _bring(self, line: int, group: Group | None, named: Named) -> None:
        """Have all on disk that a line names, and then have the line given out; or have that be its outcome."""
        stalled: list[int] = []
        timer = asyncio.get_running_loop().call_later(_STALL_S, self._note_stall, stalled, line)
        try:
            size_bytes = await self.get_all(named.fetched)
        except LINE_FAULTS as failure:
            self._give_up(line, failure)
        except asyncio.CancelledError:
            if self._lane.is_open:
                # Nobody stopped this lane: somebody took away what it fetches into.
                self._turn.fail(StoreUnavailable("What a request names was removed while it was fetched."))
            raise
        else:
            self._note_ready(line, group, named, size_bytes=size_bytes)
        finally:
            timer.cancel()
            self._stalled -= len(stalled)

    def _note_ready(self, line: int, group: Group | None, named: Named, *, size_bytes: int) -> None:
        self._named[line] = named
        self._untaken[line] = size_bytes
        self._untaken_bytes += size_bytes
        self._lane.note_ready(line, group)

    def _give_up(self, line: int, failure: LineFault) -> None:
        """A line that waited waits no more: it has its outcome, or the next turn looks at it again."""
        self._lane.note_settled()
        if self._lane.is_open:
            self.settle(line, failure)

    async def _read(self, line: int) -> Named | None:
        """What a line names; None if it has its outcome by that."""
        try:
            return await self._reader.read(line)
        except LINE_FAULTS as fault:
            self._give_up(line, fault)
            return None

    async def find(self, body: bytes) -> Sequence[MediaReference]:
        """What a request names; raises ReferenceFault."""
        return await self._reader.find(body)

    async def get_all(self, references: Sequence[MediaReference]) -> int:
        """Have them on disk, side by side; gives how many bytes they are. Raises as `BatchMedia.get`."""
        gets = [asyncio.ensure_future(self.hold.get(reference)) for reference in references]
        try:
            return sum(file.size_bytes for file in await asyncio.gather(*gets))
        finally:
            # After a failure there is no need of the others.
            for get in gets:
                get.cancel()

    def settle(self, line: int, failure: LineFault) -> None:
        """Record that what a line names cannot be had."""
        turn = self._turn
        self._named.pop(line, None)
        problem = failure.problem
        if isinstance(failure, MediaUnavailable):
            turn.record(line, Outcome.EXHAUSTED, 0, Usage(), 0.0, render_failure(problem.message, problem.code))
            # Known by now, so that this costs no fetch.
            turn.send_next_twin(self._lane, line)
            passing_on = turn.wait_for_disk()
        else:
            refused = Refused(400, render_refusal(problem))
            turn.record(line, Outcome.REFUSED, refused.status, Usage(), 0.0, refused.body)
            passing_on = self._tell_twins(line, refused)
        self._begin(passing_on)

    async def _tell_twins(self, line: int, refused: Refused) -> None:
        turn = self._turn
        if line in turn.twins:
            await turn.answer_twins(self._lane, line, refused)
        await turn.wait_for_disk()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)


class _MediaSender:
    """Of one line to one replica."""

    def __init__(self, ahead: "MediaAhead[Any]", replica: Replica, line: int, named: Named | None) -> None:
        """`named` None: it is not known, as the line was given out too early."""
        self._ahead = ahead
        self._replica = replica
        self._line = line
        self._named = named

    async def __call__(self, endpoint: str, body: bytes, on_first_token: OnFirstToken | None = None) -> Reply:
        """As `Replica.send`.

        Raises:
            NotSent: see there.
            StoreUnavailable: the disk takes or gives nothing.

        """
        if self._named is None:
            raise self._wait_again()
        try:
            reply = await self._send(endpoint, body, self._named, on_first_token)
        except LINE_FAULTS as failure:
            # Whoever is told to leave now must not leave a line that has its outcome.
            self._ahead.settle(self._line, failure)
            raise NotSent from None
        if not isinstance(reply, Lost):
            self._ahead.forget(self._line)
        return reply

    async def _send(self, endpoint: str, body: bytes, named: Named, on_first_token: OnFirstToken | None) -> Reply:
        replica, is_audio = self._replica, endpoint in AUDIO_ENDPOINTS
        if not named.kinds:
            return await replica.send(endpoint, body, on_first_token)
        if not is_audio:
            limits = replica.limits
            check_fit(replica.name, named.kinds, pictures=limits.pictures, clips=limits.clips)
        references: Sequence[MediaReference] = named.fetched
        inline: Sequence[MediaReference] = ()
        if named.has_data and (is_audio or replica.limits.pictures is not None):
            inline = [each for each in await self._ahead.find(body) if is_data_url(each.source)]
        if is_audio:
            # Bytes that stand in the line are not on disk yet; nothing is fetched here.
            await self._ahead.get_all(inline)
            references = references or inline
        with self._ahead.hold.holding(references) as files:
            if files is None:
                raise self._wait_again()
            if is_audio:
                return await replica.send(endpoint, body, on_first_token, files[0])
            if references or inline:
                found = dict(zip(references, files, strict=True))
                pictures, config = replica.limits.pictures, self._ahead.config
                fill = functools.partial(put_media_in, pictures=pictures, config=config)
                size_bytes = len(body) + sum(file.size_bytes for file in files)
                if pictures is None and size_bytes < _SHORT_BYTES:
                    body = fill(endpoint, body, found)
                else:
                    body = await asyncio.to_thread(fill, endpoint, body, found, inline)
        return await replica.send(endpoint, body, on_first_token)

    def _wait_again(self) -> NotSent:
        self._ahead.wait_again(self._line)
        return NotSent()
