"""How many answers requests want, as engines count what they compute."""

from typing import Final

import msgspec

__all__ = ["InFlight", "count_sequences"]


class _Request(msgspec.Struct):
    n: object = None
    best_of: object = None
    prompt: object = None


_request: Final = msgspec.json.Decoder(_Request)


class InFlight:
    """Requests that are with one engine. They are looked into only when somebody asks how many answers they want."""

    def __init__(self) -> None:
        self._wanted: dict[int, bytes | int] = {}
        """Number of a request -> its body, or how many answers it wants once that was asked for."""
        self._last = 0

    def enter(self, body: bytes) -> int:
        """Take a request in; gives the number under which it leaves."""
        self._last = number = self._last + 1
        self._wanted[number] = body
        return number

    def leave(self, number: int) -> None:
        """The request is over."""
        del self._wanted[number]

    def count_sequences(self) -> int:
        """How many answers all of them want."""
        wanted = self._wanted
        for number, body in wanted.items():
            if isinstance(body, bytes):
                wanted[number] = count_sequences(body)
        return sum(count for count in wanted.values() if isinstance(count, int))


def count_sequences(body: bytes) -> int:
    """Choices times prompts; 1 for most, which are not even read."""
    if b'"n"' not in body and b'"best_of"' not in body and b'"prompt"' not in body:
        return 1
    try:
        found = _request.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 1
    choices = max(value for value in (found.n, found.best_of, 1) if type(value) is int)
    prompts = 1
    # A list of numbers is one prompt, given as tokens.
    if isinstance(found.prompt, list) and found.prompt and not isinstance(found.prompt[0], (int, float)):
        prompts = len(found.prompt)
    return max(1, choices) * prompts
