"""How fast one replica is, kept while it rests: from stretches of time in which it had all it could take."""

from backfill.batch import AUDIO_TOKENS_PER_S
from backfill.dispatch.tally import Tally
from backfill.plan import Need, Speed

__all__ = ["Pace"]

_STRETCH_S = 5.0


class Pace:
    """Watches a tally. Times are those of the event loop, in seconds."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._full = Speed()
        self._any = Speed()
        self._begun_s: float | None = None
        self._was_full = True
        self._mark = self._read()
        self._is_answering = False

    @property
    def speed(self) -> Speed:
        """While it was full; as long as it never was, while it had anything to do."""
        return self._full if self._full.is_known else self._any

    def tick(self, now_s: float, in_flight: int, *, is_full: bool) -> None:
        """Look again; `is_full`: it could take no more."""
        if not in_flight:
            self._begun_s = None
            return
        begun_s = self._begun_s
        if begun_s is None:
            begun_s = self._begin(now_s)
            # Until the first answer there are none to be counted, however fast the engine is.
            self._is_answering = False
        self._was_full = self._was_full and is_full
        answered, need = self._read()
        if not self._is_answering:
            if answered > self._mark[0]:
                self._is_answering = True
                self._begin(now_s)
        elif now_s - begun_s >= _STRETCH_S:
            before = self._mark[1]
            done = Need(need.prompt_tokens - before.prompt_tokens, need.completion_tokens - before.completion_tokens)
            speed = self._full if self._was_full else self._any
            speed.observe(now_s - begun_s, done)
            self._begin(now_s)

    def _begin(self, now_s: float) -> float:
        self._begun_s = now_s
        self._was_full = True
        self._mark = self._read()
        return now_s

    def _read(self) -> tuple[int, Need]:
        tally = self._tally
        prompt_tokens = tally.prompt_tokens - tally.cached_tokens + tally.audio_ms * AUDIO_TOKENS_PER_S / 1000
        return tally.answered, Need(prompt_tokens, tally.completion_tokens)
