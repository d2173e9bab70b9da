"""From tokens to the text a client sees: cut at stop strings, and given out piece by piece for a stream. Pure."""

from collections.abc import Callable, Sequence
from typing import Final

__all__ = ["TextStream", "cut_at_stop"]

# What a decoder makes of bytes that are no whole character yet.
_UNFINISHED: Final = "\ufffd"
# Decoding costs about the same for 5 and 50 tokens; beyond, it is better begun anew.
_WINDOW_TOKENS: Final = 64


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the stop string that occurs first, or all of it."""
    positions = [position for position in (text.find(string) for string in stop) if position >= 0]
    return text[: min(positions)] if positions else text


class TextStream:
    """One choice's text as its tokens come.

    Text is given out once it is certain: not within a character that takes several tokens, and not where a stop string
    may have begun. Tokens are decoded with those before them, because some tokenizers drop a leading space (as vLLM's
    incremental detokenizer does).
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str]) -> None:
        self._decode = decode
        self._stop = stop
        self._tokens: list[int] = []
        self._read = 0
        """How many characters of the tokens' text have been taken."""
        self._held = ""
        self._stopped = False

    def add(self, token_ids: Sequence[int]) -> str:
        """What can be given out now that these tokens are known."""
        self._tokens += token_ids
        text = self._decode(self._tokens)
        if text.endswith(_UNFINISHED):
            return ""
        return self._release(self._take(text), last=False)

    def close(self) -> str:
        """The rest: no token follows."""
        return self._release(self._take(self._decode(self._tokens)), last=True)

    def _take(self, text: str) -> str:
        new = text[self._read :]
        self._read = max(self._read, len(text))
        if len(self._tokens) > _WINDOW_TOKENS and new:
            self._tokens = self._tokens[-_WINDOW_TOKENS // 8 :]
            self._read = len(self._decode(self._tokens))
        return new

    def _release(self, new: str, *, last: bool) -> str:
        if self._stopped:
            return ""
        text = self._held + new
        cut = cut_at_stop(text, self._stop)
        self._stopped = len(cut) < len(text)
        held = 0 if last or self._stopped else _count_begun(text, self._stop)
        self._held = cut[len(cut) - held :]
        return cut[: len(cut) - held]


def _count_begun(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end of the text may be the beginning of a stop string."""
    return max((size for string in stop for size in range(1, len(string)) if text.endswith(string[:size])), default=0)
