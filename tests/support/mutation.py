"""Hostile variations of good bytes: the same seed gives the same ones."""

import random
from collections.abc import Sequence

__all__ = ["HOSTILE", "mutate"]

HOSTILE = (
    b"",
    b"\x00",
    b"\r\n",
    b"\r\n\r\n",
    b'"',
    b"\\",
    b"'",
    b";",
    b"=",
    b"&",
    b"%",
    b"%00",
    b"%ff",
    b"%ED%A0%80",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\xe2\x80\xa8",
    b"\xef\xbb\xbf",
    "ü数🎉\u202e".encode(),
    b"\\ud800",
    b"\\udc00\\ud800",
    b"\\u0000",
    b"null",
    b"true",
    b"NaN",
    b"-Infinity",
    b"-1",
    b"0",
    b"1.5",
    b"1e999",
    b"9" * 20,
    b"9" * 5000,
    "\u0663\u0666\u0660\u0660".encode(),
    b"[",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"{}",
    b'""',
    b"[]",
    b"../../etc/passwd",
    b"..",
    b"/",
    b"a" * 300,
    b"a" * 70_000,
    b"; filename*=undefined''x",
    b"; filename*=punycode''xn--a-",
    b"; filename*=utf-7''+2AA-",
    b"; filename*=utf-16''%d8%00",
    b"--b\r\n",
    b"--b--\r\n",
    b"bytes=0-",
    b"bytes=-99999999999999999999",
    b"gzip",
    b"\x1f\x8b\x08\x00",
)


def mutate(data: bytes, chance: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """`data` after one to four accidents; now and then a piece of one of `others` is put in."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randint(0, len(data))
        end = min(len(data), start + chance.choice((0, 1, 2, 8, 40)))
        match chance.randrange(7):
            case 0:
                data = data[:start] + data[end:]
            case 1:
                data = data[:end] + data[start:]
            case 2:
                data = data[:start] + chance.randbytes(end - start) + data[end:]
            case 3:
                data = data[:start]
            case 4 if others:
                piece = chance.choice(others)
                data = data[:start] + piece[chance.randint(0, len(piece)) :] + data[end:]
            case _:
                data = data[:start] + chance.choice(HOSTILE) + data[end:]
    return data
