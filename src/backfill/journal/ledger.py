"""What the finished lines of a batch used, kept for each model and hour while a journal is folded."""

from backfill.batch import HOUR_MS, Counts, Outcome, Usage, UsageRow
from backfill.journal.line_models import LineModels
from backfill.journal.record import StoredRecord

__all__ = ["Ledger"]

_ANSWERED, _FAILED, _PROMPT, _COMPLETION, _CACHED, _AUDIO = range(6)
_NOTHING = (0,) * 6


class Ledger:
    """Sums over records, of which the caller gives each line's once."""

    def __init__(self, models: LineModels) -> None:
        self._numbers = models.numbers
        self._names = models.names
        self._sums: dict[tuple[int, int, bool], list[int]] = {}
        """Number of the model, hour, whether reused -> answered, failed, the three kinds of tokens, and audio."""

    def add(self, record: StoredRecord) -> None:
        """Take a line in. Asked once a line, so it does no more than it must."""
        key = self._numbers[record.line], record.finished_at_ms // HOUR_MS, record.reused
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = [*_NOTHING]
        sums[record.outcome is not Outcome.ANSWERED] += 1
        sums[_PROMPT] += record.prompt_tokens
        sums[_COMPLETION] += record.completion_tokens
        sums[_CACHED] += record.cached_tokens
        if record.audio_ms:
            sums[_AUDIO] += record.audio_ms

    def count(self, total: int) -> Counts:
        """All models and hours together; `total` is how many lines there are."""
        computed, reused = [*_NOTHING], [*_NOTHING]
        for (_, _, is_reused), sums in self._sums.items():
            _add(reused if is_reused else computed, sums)
        return Counts(
            total,
            computed[_ANSWERED] + reused[_ANSWERED],
            computed[_FAILED] + reused[_FAILED],
            Usage(*computed[_PROMPT:]),
            reused[_ANSWERED] + reused[_FAILED],
            Usage(*reused[_PROMPT:]),
        )

    @property
    def rows(self) -> tuple[UsageRow, ...]:
        """One for each model and hour, in order."""
        # Two numbers may stand for one name: lines that name the batch's own model, and lines that name none.
        merged: dict[tuple[int, str], tuple[list[int], list[int]]] = {}
        for (number, hour, is_reused), sums in self._sums.items():
            both = merged.setdefault((hour, self._names[number]), ([*_NOTHING], [*_NOTHING]))
            _add(both[is_reused], sums)
        return tuple(
            UsageRow(
                model,
                hour,
                computed[_ANSWERED] + reused[_ANSWERED],
                computed[_FAILED] + reused[_FAILED],
                Usage(*computed[_PROMPT:]),
                reused[_ANSWERED] + reused[_FAILED],
                Usage(*reused[_PROMPT:]),
            )
            for (hour, model), (computed, reused) in sorted(merged.items())
        )


def _add(sums: list[int], others: list[int]) -> None:
    for place, number in enumerate(others):
        sums[place] += number
