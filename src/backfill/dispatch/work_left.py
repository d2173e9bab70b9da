"""What is left of a batch in tokens: as guessed before, put right by what its lines and those of others came to."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backfill.batch import Usage
from backfill.index import LineIndex
from backfill.plan import Need

__all__ = ["Ratios", "WorkLeft"]

# So many lines have to be done before a batch's own lines say more than those of others.
_LINES_OF_BELIEF = 8
# So many outcomes may wait to be taken in, which costs less for many at once.
_NOTED_MAX = 1024


@dataclass(frozen=True, slots=True)
class Ratios:
    """How many tokens come for each that was guessed."""

    prompt: float = 1.0
    """Without those that are cached."""
    completion: float = 1.0


@dataclass(slots=True)
class _Part:
    """The lines of one model."""

    left: list[float]
    pool: frozenset[str] = frozenset()
    lines: int = 0
    """That are done."""
    guessed: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Of the lines that are done."""
    used: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """By them."""

    def take_in(self, index: LineIndex, noted: Sequence[tuple[int, Usage]]) -> None:
        """These lines have their outcomes."""
        prompt, completion = _sum_guesses(index, [line for line, _ in noted])
        self.left[0] -= prompt
        self.left[1] -= completion
        measured = [(line, usage) for line, usage in noted if usage[0] or usage[3]]
        if not measured:
            return
        if len(measured) < len(noted):
            prompt, completion = _sum_guesses(index, [line for line, _ in measured])
        self.lines += len(measured)
        self.guessed[0] += prompt
        self.guessed[1] += completion
        used = Usage(*map(sum, zip(*(usage for _, usage in measured), strict=True)))
        self.used[0] += used.prompt_tokens - used.cached_tokens + used.audio_tokens
        self.used[1] += used.completion_tokens


class WorkLeft:
    """Of one turn: what its lines need that have no outcome yet."""

    def __init__(self, index: LineIndex, needs: Mapping[int, Need]) -> None:
        """`needs`: model -> all that its lines are taken to need."""
        self._index = index
        self._parts = {model: _Part(list(need)) for model, need in needs.items()}
        self._noted: list[tuple[int, Usage]] = []
        """Outcomes that are not taken in yet."""

    @property
    def pools(self) -> set[frozenset[str]]:
        """Who serves it."""
        return {part.pool for part in self._parts.values() if part.pool}

    def set_pool(self, model: int, replicas: frozenset[str]) -> None:
        """Who serves the lines of a model."""
        if model in self._parts:
            self._parts[model].pool = replicas

    def note(self, line: int, usage: Usage) -> None:
        """A line has its outcome."""
        self._noted.append((line, usage))
        if len(self._noted) >= _NOTED_MAX:
            self._take_in()

    def find_ratios(self, pool: frozenset[str], usual: Ratios) -> Ratios:
        """Of the lines for these replicas; `usual` until enough of them are done."""
        self._take_in()
        for part in self._parts.values():
            if part.pool == pool and part.lines:
                belief = _LINES_OF_BELIEF / part.lines
                return Ratios(
                    *(
                        (used + guessed * belief * ratio) / (guessed * (1 + belief)) if guessed else ratio
                        for used, guessed, ratio in zip(
                            part.used, part.guessed, (usual.prompt, usual.completion), strict=True
                        )
                    )
                )
        return usual

    def sum_up(self, usual: Mapping[frozenset[str], Ratios]) -> dict[frozenset[str], Need]:
        """Who serves what is left -> what it will need."""
        self._take_in()
        needs: dict[frozenset[str], Need] = {}
        for part in self._parts.values():
            if not part.pool:
                continue
            ratios = self.find_ratios(part.pool, usual.get(part.pool, Ratios()))
            need = Need(max(0.0, part.left[0]), max(0.0, part.left[1])).scaled(ratios.prompt, ratios.completion)
            needs[part.pool] = needs.get(part.pool, Need()).plus(need)
        return needs

    def _take_in(self) -> None:
        noted, self._noted = self._noted, []
        if not self._parts:
            return
        by_model: defaultdict[int, list[tuple[int, Usage]]] = defaultdict(list)
        models = self._index.models
        for one in noted:
            by_model[models[one[0]]].append(one)
        for model, those in by_model.items():
            if model in self._parts:
                self._parts[model].take_in(self._index, those)


def _sum_guesses(index: LineIndex, lines: Sequence[int]) -> tuple[int, int]:
    """What the lines were taken to need: of the prompt, and of the answer."""
    completion = sum(map(index.answer_tokens.__getitem__, lines))
    return sum(map(index.token_estimates.__getitem__, lines)) - completion, completion
