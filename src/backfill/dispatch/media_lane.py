"""A lane some of whose lines name pictures or clips: such a line is given out once they are on this machine's disk."""

from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from backfill.dispatch.lane import Group, Job, Lane, Share
from backfill.dispatch.media_ahead import ComingGroup, MediaAhead
from backfill.dispatch.turn_media import MediaTurn, TurnMedia
from backfill.engines import Route
from backfill.plan import LineGroup

if TYPE_CHECKING:
    from backfill.dispatch.prefix_gate import PrefixGate

__all__ = ["MediaLane"]

_Turn = TypeVar("_Turn", bound=MediaTurn)


class MediaLane(Lane[_Turn]):
    """Lines that name nothing go as in any lane. The others count as delayed until all that they name is here.

    Then they go first. Where lines begin alike they come to the replica that has begun with their group, as in any
    lane, as far as their pictures let them.
    """

    def __init__(
        self,
        turn: _Turn,
        route: Route,
        groups: Sequence[LineGroup],
        media: TurnMedia,
        *,
        insert_model: bool,
    ) -> None:
        plain, naming = _split(groups, media.may_name)
        super().__init__(turn, route, plain, insert_model=insert_model)
        self.awaited = self.delayed = sum(len(group.lines) for group in naming)
        self._fresh: deque[ComingGroup] = deque()
        """Groups of which a line is here and that nobody has begun."""
        self.media = self._ahead = MediaAhead(self, turn, media, _walk(naming))
        self._ahead.advance()

    def take(self, replica: str, gate: "PrefixGate") -> Job | None:
        """As in any lane; each line that is taken makes room for another one's pictures."""
        if self._fresh:
            self._begin_fresh(self._shares[replica])
        job = super().take(replica, gate)
        if job is not None:
            self._ahead.note_taken(job.line)
        return job

    def put_back(self, line: int) -> None:
        """As in any lane; a line whose media are not at hand waits for them first."""
        if self._ahead.is_ready(line):
            super().put_back(line)
        elif self.is_open:
            self.await_media(line)

    def await_media(self, line: int) -> None:
        """Have a line wait again for what it names, before all others."""
        self.awaited += 1
        self.delayed += 1
        self._ahead.bring_again(line)

    def note_ready(self, line: int, group: Group | None) -> None:
        """All that the line names is here."""
        self.note_settled()
        if not isinstance(group, ComingGroup) or not group.prefix:
            super().put_back(line)
            return
        if not self.is_open:
            return
        if not group.left:
            # Whoever had it last goes on with it.
            if group.home is None:
                self._fresh.append(group)
            else:
                group.home.ready.appendleft(group)
        group.lines.append(line)
        self.unsent += 1
        for waker in self._wakers:
            waker()

    def note_settled(self) -> None:
        """A line waits no more."""
        self.awaited -= 1
        self.delayed -= 1

    def close(self) -> None:
        """Give out no line any more, and fetch nothing."""
        super().close()
        self._ahead.stop()

    async def end(self) -> None:
        """Return when nothing is fetched any more."""
        self.close()
        await self._ahead.end()

    def _begin_fresh(self, share: Share) -> None:
        if not share.ready and self._may_begin(share):
            group = self._fresh.popleft()
            group.home = share
            share.ready.append(group)

    def _drop(self, share: Share, group: Group) -> None:
        if isinstance(group, ComingGroup):
            group.home = share
        super()._drop(share, group)


def _split(groups: Sequence[LineGroup], may_name: Callable[[int], bool]) -> tuple[list[LineGroup], list[LineGroup]]:
    """The groups of lines that name nothing, and those of lines that may name something."""
    plain, naming = [], []
    for group in groups:
        those = array("I", filter(may_name, group.lines))
        if len(those) < len(group.lines):
            others = array("I", (line for line in group.lines if not may_name(line))) if those else group.lines
            plain.append(group._replace(lines=others))
        if those:
            naming.append(group._replace(lines=those))
    return plain, naming


def _walk(groups: Sequence[LineGroup]) -> Iterator[tuple[int, ComingGroup]]:
    for planned in groups:
        group = ComingGroup(planned)
        for line in planned.lines:
            yield line, group
