"""How long tokens take: learned from what engines did while they were full. Pure.

Time goes into prompt tokens that were not cached and into tokens of answers. How many seconds one of either costs is a
least-squares fit over stretches of work, of which older ones count less and less. Where all stretches have the same
mixture, which is usual, nothing tells the two apart: then their ratio is taken to be the usual one. Either way the
stretches together take just as long as they took.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

__all__ = ["Estimating", "Fastest", "Need", "Speed", "Team", "TokenTime"]

# An engine computes so many times as many tokens of prompts in a second as it makes tokens of answers, roughly.
_USUAL_RATIO = 0.15
# How firmly that is believed, against what was seen.
_BELIEF = 0.02
# Busy seconds after which a stretch counts half.
_HALF_LIFE_S = 300.0
_SECONDS_MIN = 1e-9
# Of a larger team it is remembered what was found, for so many mixtures of prompts and answers.
_TEAM_ASKED_EACH_TIME = 8
_MIXTURES = 64
_TOKENS_ASKED = 1_000_000.0


class Need(NamedTuple):
    """Tokens that are to be computed, or were."""

    prompt_tokens: float = 0.0
    """Without those that are cached."""
    completion_tokens: float = 0.0

    def scaled(self, prompt_ratio: float, completion_ratio: float) -> "Need":
        """Each so many times."""
        return Need(self.prompt_tokens * prompt_ratio, self.completion_tokens * completion_ratio)

    def plus(self, other: "Need") -> "Need":
        """Both together."""
        return Need(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


class Estimating(Protocol):
    """How fast one engine is, or several together are."""

    def estimate_s(self, need: Need) -> float:
        """How long that takes if nothing else is computed meanwhile."""


class TokenTime(NamedTuple):
    """How long tokens take at an engine elsewhere, as was told of it."""

    prompt_s: float
    """For one of a prompt that is not cached."""
    completion_s: float
    """For one of an answer."""

    def estimate_s(self, need: Need) -> float:
        """How long that takes if nothing else is computed meanwhile."""
        return need.prompt_tokens * self.prompt_s + need.completion_tokens * self.completion_s


class Speed:
    """What one engine, or several together, need for tokens."""

    def __init__(self) -> None:
        self._busy_s = 0.0
        self._prompt = 0.0
        self._completion = 0.0
        self._squares = [0.0, 0.0, 0.0]
        self._products = [0.0, 0.0]

    @property
    def is_known(self) -> bool:
        """Whether anything was seen yet."""
        return self._busy_s > 0

    @property
    def tokens_per_s(self) -> float:
        """Of prompts and answers together, in the mixture that was seen; 0: not known."""
        return (self._prompt + self._completion) / self._busy_s if self._busy_s else 0.0

    @property
    def token_s(self) -> tuple[float, float]:
        """Seconds for a token of a prompt and of an answer; only where `is_known`."""
        return self._fit()

    def observe(self, busy_s: float, done: Need) -> None:
        """Take in a stretch of work; one in which nothing was done tells nothing."""
        prompt, completion = done
        if busy_s <= 0 or prompt + completion <= 0:
            return
        kept = 0.5 ** (busy_s / _HALF_LIFE_S)
        self._busy_s = self._busy_s * kept + busy_s
        self._prompt = self._prompt * kept + prompt
        self._completion = self._completion * kept + completion
        # Each by its length, so that a long stretch counts as the short ones that it could be cut into.
        seen = (prompt * prompt / busy_s, prompt * completion / busy_s, completion * completion / busy_s)
        self._squares = [old * kept + new for old, new in zip(self._squares, seen, strict=True)]
        self._products = [old * kept + new for old, new in zip(self._products, (prompt, completion), strict=True)]

    def estimate_s(self, need: Need) -> float:
        """How long that takes if nothing else is computed meanwhile; only where `is_known`."""
        prompt_s, completion_s = self._fit()
        return need.prompt_tokens * prompt_s + need.completion_tokens * completion_s

    def _fit(self) -> tuple[float, float]:
        """Seconds for a token of a prompt and of an answer."""
        pp, pc, cc = self._squares
        belief = _BELIEF * (pp + cc)
        pp, pc, cc = pp + belief, pc - belief * _USUAL_RATIO, cc + belief * _USUAL_RATIO**2
        determinant = pp * cc - pc * pc
        prompt_s, completion_s = _USUAL_RATIO, 1.0
        if determinant > 0:
            prompt_s = max(0.0, (self._products[0] * cc - self._products[1] * pc) / determinant)
            completion_s = max(0.0, (self._products[1] * pp - self._products[0] * pc) / determinant)
        whole_s = self._prompt * prompt_s + self._completion * completion_s
        if whole_s <= 0:
            prompt_s, completion_s = _USUAL_RATIO, 1.0
            whole_s = self._prompt * prompt_s + self._completion
        scale = self._busy_s / whole_s
        return prompt_s * scale, completion_s * scale


class Team:
    """Some engines together, each of which has its part of all that is needed."""

    def __init__(self, members: Sequence[Estimating]) -> None:
        """`members`: one at least."""
        self._members = members
        self._seconds: dict[float, float] = {}
        """Share of prompts -> how long a token takes."""

    def estimate_s(self, need: Need) -> float:
        """How long that takes if nothing else is computed meanwhile."""
        tokens = sum(need)
        if not tokens:
            return 0.0
        if len(self._members) <= _TEAM_ASKED_EACH_TIME:
            return self._measure_s(need)
        # In so much as all of it takes longer in proportion, what was found for this mixture holds for any amount.
        share = round(_MIXTURES * need.prompt_tokens / tokens) / _MIXTURES
        if share not in self._seconds:
            asked = Need(share * _TOKENS_ASKED, (1 - share) * _TOKENS_ASKED)
            self._seconds[share] = self._measure_s(asked) / _TOKENS_ASKED
        return tokens * self._seconds[share]

    def _measure_s(self, need: Need) -> float:
        return 1 / sum(1 / max(member.estimate_s(need), _SECONDS_MIN) for member in self._members)


class Fastest(Team):
    """Some engines, of which one has all of it."""

    def _measure_s(self, need: Need) -> float:
        return min(member.estimate_s(need) for member in self._members)
