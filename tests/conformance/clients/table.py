"""The table in docs/clients.md: written by a test run, and read back by the test that compares it with the tests."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["PAGE", "PASSED", "Row", "read_table", "write_table"]

PAGE = Path(__file__).resolve().parents[3] / "docs" / "clients.md"
PASSED = "passed"
_BEGIN = "<!-- made by `make clients` -->\n"
_END = "<!-- end of what `make clients` made -->\n"
_HEAD = "| client | version | runtime | flow | result |\n|---|---|---|---|---|\n"
_ROW = re.compile(r"\| (.*?) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|")


class Row(NamedTuple):
    """One thing that one client did."""

    client: str
    version: str
    runtime: str
    flow: str
    result: str


def write_table(rows: Iterable[Row], page: Path = PAGE) -> None:
    """Replace the table; flows of one client that ended alike share a line."""
    together: dict[tuple[str, str, str, str], list[str]] = {}
    for row in rows:
        together.setdefault((row.client, row.version, row.runtime, row.result), []).append(row.flow)
    lines = [f"| {' | '.join(key[:3])} | {', '.join(flows)} | {key[3]} |\n" for key, flows in sorted(together.items())]
    before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(before + _BEGIN + _HEAD + "".join(lines) + _END + after, encoding="utf-8")


def read_table(page: Path = PAGE) -> list[Row]:
    """One row for each flow."""
    table = page.read_text(encoding="utf-8").partition(_BEGIN)[2].partition(_END)[0].removeprefix(_HEAD)
    matches = filter(None, map(_ROW.fullmatch, table.splitlines()))
    return [Row(one[1], one[2], one[3], flow, one[5]) for one in matches for flow in one[4].split(", ")]
