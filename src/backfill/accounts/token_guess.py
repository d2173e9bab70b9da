"""How many tokens the lines of a batch are taken to need, with what engines reported of earlier ones."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from backfill.batch import Batch, File, Reservation, fit_to_endpoint
from backfill.index import Survey
from backfill.store import EndedUsage, Reservations

__all__ = ["TokenGuess", "find_per_mille"]

_AGE_MAX_S = 60.0
_PER_MILLE_RANGE = (200, 5000)
# Fewer say more of themselves than of the model.
_LINES_MIN = 20


class TokenGuess:
    """A prompt is guessed from its bytes, and the guess corrected by a factor for each model.

    The factor is what engines counted, divided by what had been guessed, over the newest batches that have ended. The
    engines' own tokenizers live in the engines' processes: no create waits for one to be started.
    """

    def __init__(self, reservations: Reservations) -> None:
        self._reservations = reservations
        self._per_mille: Mapping[str, int] = {}
        self._read_at_s = float("-inf")

    async def reserve(self, batch: Batch, _file: File, survey: Survey) -> Batch:
        """Appraise a new batch (`turns.Appraise`): note what it is taken to need of each of its models."""
        if time.monotonic() - self._read_at_s > _AGE_MAX_S:
            self._read_at_s = time.monotonic()
            self._per_mille = find_per_mille(await self._reservations.list_ended())
        needs = survey.needs
        if not needs and survey.lines:
            # Of before models were told apart.
            name = survey.models[0] if len(survey.models) == 1 else ""
            needs = {name: Reservation(survey.lines, 0, survey.token_estimate)}
        reserved: dict[str, Reservation] = {}
        for name, need in needs.items():
            model = name or batch.model_id or ""
            adjusted = self._adjust(model, fit_to_endpoint(need, batch.endpoint))
            reserved[model] = _join(reserved[model], adjusted) if model in reserved else adjusted
        return msgspec.structs.replace(batch, reserved=reserved)

    def _adjust(self, model: str, need: Reservation) -> Reservation:
        per_mille = self._per_mille.get(model, 1000)
        prompt_tokens = -(-need.prompt_tokens * per_mille // 1000)
        return Reservation(need.lines, prompt_tokens, need.completion_tokens, per_mille)


def find_per_mille(ended: Sequence[EndedUsage]) -> dict[str, int]:
    """Model -> prompt tokens that engines counted for each thousand that were guessed from the bytes."""
    guessed: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for reserved, rows in ended:
        for row in rows:
            need = reserved.get(row.model)
            prompt_tokens = sum(used.audio_tokens or used.prompt_tokens for used in (row.usage, row.reused_usage))
            # What reports no usage says nothing.
            if need is None or not need.lines or not prompt_tokens:
                continue
            lines[row.model] += row.answered
            counted[row.model] += prompt_tokens
            guessed[row.model] += need.prompt_tokens * 1000 // need.prompt_per_mille * row.answered // need.lines
    least, most = _PER_MILLE_RANGE
    return {
        model: min(max(counted[model] * 1000 // guessed[model], least), most)
        for model in counted
        if guessed[model] and lines[model] >= _LINES_MIN
    }


def _join(one: Reservation, other: Reservation) -> Reservation:
    """Lines that name a model, and lines that get it from their batch."""
    return Reservation(
        one.lines + other.lines,
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.prompt_per_mille,
    )
