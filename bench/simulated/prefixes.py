"""The prefix cache of a simulated engine."""

from collections import OrderedDict
from collections.abc import Sequence

__all__ = ["PrefixCache"]


class PrefixCache:
    """Blocks of prompts, each known by a key that stands for all before it too; the least recently used goes first."""

    def __init__(self, capacity_tokens: int) -> None:
        self._capacity_tokens = capacity_tokens
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._held_tokens = 0

    def match(self, prefix: Sequence[tuple[str, int]]) -> int:
        """Tokens at the prompt's beginning that are there."""
        matched = 0
        for key, size_tokens in prefix:
            if key not in self._sizes:
                break
            self._sizes.move_to_end(key)
            matched += size_tokens
        return matched

    def insert(self, prefix: Sequence[tuple[str, int]]) -> None:
        """Keep a computed prompt's blocks; its last ones go before its first, which more prompts share."""
        for key, size_tokens in reversed(prefix):
            if key not in self._sizes:
                self._sizes[key] = size_tokens
                self._held_tokens += size_tokens
            self._sizes.move_to_end(key)
        while self._held_tokens > self._capacity_tokens:
            _, size_tokens = self._sizes.popitem(last=False)
            self._held_tokens -= size_tokens
