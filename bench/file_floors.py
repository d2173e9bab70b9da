"""The least that taking in a file can cost: decoding its lines, and making its bytes durable.

Run as `python -m bench.file_floors INPUT`; prints one JSON object.
"""

import argparse
import os
import time
from pathlib import Path

import msgspec

__all__ = ["main"]

_PIECE_BYTES = 1 << 18


def _decode_lines(path: Path) -> None:
    decode = msgspec.json.decode
    with path.open("rb") as file:
        for line in file:
            decode(line)


def _copy_durably(path: Path) -> None:
    copy = path.with_name(f"{path.name}.copy")
    try:
        with path.open("rb") as source, copy.open("wb") as target:
            while piece := source.read(_PIECE_BYTES):
                target.write(piece)
            target.flush()
            os.fsync(target.fileno())
    finally:
        copy.unlink(missing_ok=True)


def main() -> None:
    """Do both and print how long each took."""
    parser = argparse.ArgumentParser(prog="python -m bench.file_floors", description="Floors for an upload.")
    parser.add_argument("input", type=Path)
    path = parser.parse_args().input
    figures = {}
    for name, act in (("decode_s", _decode_lines), ("durable_copy_s", _copy_durably)):
        started = time.perf_counter()
        act(path)
        figures[name] = time.perf_counter() - started
    print(msgspec.json.encode(figures).decode())


if __name__ == "__main__":
    main()
