"""Requests for real engines: chats that share nothing, and classifications that share long beginnings. Pure.

Everything is drawn from the salt: the same salt gives the same requests, another one gives requests of which no engine
has seen more than the chat template before.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.input_file import make_custom_id

__all__ = ["Request", "make_chats", "make_classifications", "read_requests", "write_requests"]

# Each of these is one token, or nearly so, in the vocabularies of small models.
_WORDS_TEXT = (
    "the a new old small large red green blue house river table paper number letter water light hand day week year "
    "man woman child friend city road train ship field tree stone bird dog horse book page word story plan price "
    "part side line point case group problem fact time way thing place work life world school state family system "
    "question reason market order service support change result money door window garden kitchen summer winter "
    "morning evening early late long short high low good better first last next open close find keep give take make "
    "move turn start stop read write speak hear see know think want need help show tell call bring send pay meet"
)
_WORDS = tuple(_WORDS_TEXT.split())
_LABELS = ("billing", "delivery", "account", "product", "other")
_CHAT_WORDS = 45
_PREFIX_WORDS = 440
_OWN_WORDS = 16


class Request(msgspec.Struct, frozen=True):
    """One request, and how many tokens its answer has to have."""

    custom_id: str
    body: msgspec.Raw
    max_tokens: int = 0


class _Line(msgspec.Struct):
    custom_id: str
    body: msgspec.Raw


class _Body(msgspec.Struct):
    max_tokens: int


def make_chats(model: str, count: int, max_tokens: Sequence[int], salt: str) -> list[dict[str, Any]]:
    """Chats of some 80 prompt tokens with a common template; the answers' lengths are drawn from `max_tokens`."""
    dice = random.Random(f"chats {salt}")
    bodies = []
    for number in range(count):
        text = (
            f"{_draw_salt(dice)} Tell a story about number {number} with these words: {_draw_words(dice, _CHAT_WORDS)}."
        )
        bodies.append(_make_body(model, [("user", text)], dice.choice(max_tokens)))
    return bodies


def make_classifications(model: str, count: int, prefixes: int, salt: str) -> list[dict[str, Any]]:
    """Short questions after one of `prefixes` system prompts of some 500 tokens, in random order; 4 tokens answer."""
    dice = random.Random(f"classifications {prefixes} {salt}")
    systems = [
        f"{_draw_salt(dice)} Sort each message into one of: {', '.join(_LABELS)}. Mind these words: "
        f"{_draw_words(dice, _PREFIX_WORDS)}. Answer with one label."
        for _ in range(prefixes)
    ]
    chosen = [systems[number % prefixes] for number in range(count)]
    dice.shuffle(chosen)
    return [
        _make_body(model, [("system", system), ("user", f"{number}: {_draw_words(dice, _OWN_WORDS)}?")], 4)
        for number, system in enumerate(chosen)
    ]


def write_requests(path: Path, bodies: Sequence[dict[str, Any]]) -> Path:
    """Write an input file with one line for each body."""
    encode = msgspec.json.encode
    with path.open("wb") as file:
        for line, body in enumerate(bodies):
            file.write(encode({"custom_id": make_custom_id(line), "body": body}) + b"\n")
    return path


def read_requests(path: Path) -> list[Request]:
    """The requests of an input file, in its order."""
    decode = msgspec.json.Decoder(_Line).decode
    read = msgspec.json.Decoder(_Body).decode
    with path.open("rb") as file:
        lines = [decode(line) for line in file]
    return [Request(line.custom_id, line.body, read(line.body).max_tokens) for line in lines]


def _make_body(model: str, messages: Sequence[tuple[str, str]], max_tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": role, "content": content} for role, content in messages],
        "max_tokens": max_tokens,
        # So that all sides compute the same number of tokens, whatever the model would rather say.
        "ignore_eos": True,
        "temperature": 0,
    }


def _draw_salt(dice: random.Random) -> str:
    """Different from the first token on: an engine that caches whole beginnings finds none."""
    return f"{_draw_words(dice, 3)} {dice.randrange(10**6)}."


def _draw_words(dice: random.Random, count: int) -> str:
    return " ".join(dice.choices(_WORDS, k=count))
