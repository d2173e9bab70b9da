"""A file, heard from its beginning to its end: decoded, cut, computed by the workers, and put together."""

from collections import deque
from threading import Event
from typing import TYPE_CHECKING, BinaryIO

from backfill.engines.speech.host.audio import cut_audio
from backfill.engines.speech.host.chunks import Chunk, cut_speech
from backfill.engines.speech.host.requests import Wanted
from backfill.engines.speech.host.segments import Segment, Spoken, Transcript
from backfill.engines.speech.host.workers import Workers

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Abandoned", "transcribe"]


class Abandoned(Exception):
    """Nobody waits for the answer any more."""


def transcribe(
    source: BinaryIO, wanted: Wanted, workers: Workers, *, length_max_s: float, ahead: int, abandoned: Event
) -> Transcript:
    """What is said in a file. Runs in a thread of its own, for as long as it takes.

    Args:
        source: the file, open at its beginning.
        wanted: how it is to be heard.
        workers: who computes.
        length_max_s: of a file that is longer nothing is told.
        ahead: how many chunks are with the workers at most.
        abandoned: once set, the work ends.

    Raises:
        Refusal: it is no audio that can be taken.
        Abandoned: `abandoned` was set.

    """
    hearing = _Hearing(wanted, workers, ahead)
    length_s = 0.0
    try:
        for piece in cut_audio(source, length_max_s):
            if abandoned.is_set():
                raise Abandoned
            length_s = piece.start_s + piece.length_s
            for chunk in cut_speech(piece):
                if abandoned.is_set():
                    raise Abandoned
                hearing.add(chunk)
        segments = hearing.finish()
        return Transcript(hearing.language, length_s, segments)
    finally:
        hearing.drop()


class _Hearing:
    """Chunks of one file on their way through the workers; they come back in order."""

    def __init__(self, wanted: Wanted, workers: Workers, ahead: int) -> None:
        self.language = wanted.language
        self._order = wanted.order
        self._workers = workers
        self._ahead = ahead
        self._futures: deque[Future[Spoken]] = deque()
        self._segments: list[Segment] = []

    def add(self, chunk: Chunk) -> None:
        if self._futures and (self.language is None or len(self._futures) >= self._ahead):
            # The first chunk tells the language: a file is heard in one, or it would change in the middle.
            self._collect()
        self._futures.append(self._workers.submit(chunk, self._order, self.language))

    def finish(self) -> tuple[Segment, ...]:
        while self._futures:
            self._collect()
        return tuple(self._segments)

    def drop(self) -> None:
        """Those that are not computed yet never will be."""
        for future in self._futures:
            future.cancel()

    def _collect(self) -> None:
        spoken = self._futures.popleft().result()
        self.language = self.language or spoken.language
        self._segments += spoken.segments
