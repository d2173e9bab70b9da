"""Usage in words: a table that fits the terminal, with amounts that a person reads."""

import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table

from backfill.wire.words import name_amount

__all__ = ["draw_usage", "name_amount", "name_cost"]

_LABELS = ("day", "hour", "model", "key", "owner", "batch")
_TOKENS = {"input_tokens": "tokens in", "cached_tokens": "cached", "output_tokens": "tokens out"}
_AUDIO = {"audio_seconds": "audio s"}
_MONEY = {"list": "list price", "discount": "discount", "paid": "paid", "saved": "saved"}
# What one can do without, in this order, so that the rest fits into the terminal.
_DISPENSABLE = ("cached_tokens", "discount", "failed", "reused_requests", "saved", "list", "output_tokens", *_AUDIO)
_LABEL_CELLS_MIN = 12
_GAP_CELLS = 2
_Row = dict[str, Any]


def draw_usage(page: dict[str, Any], width: int | None = None) -> Iterator[str]:
    """The lines of the table, as wide as the terminal at most, with the total below."""
    width = width or shutil.get_terminal_size().columns
    rows, currency = [*page["data"], page["total"]], page["currency"]
    names = [name for name in _LABELS if name in page["by"]]
    labels = [[_name_label(row, name) for name in names] for row in page["data"]]
    columns = {name: [heading, *_name_values(rows, name, currency)] for name, heading in _choose_columns(rows).items()}
    for name in _DISPENSABLE:
        if _measure(names, labels, columns) > width:
            columns.pop(name, None)
    table = Table(box=None, pad_edge=False, header_style="none", padding=(0, _GAP_CELLS, 0, 0))
    for name in names:
        table.add_column(name, overflow="fold", min_width=_LABEL_CELLS_MIN, no_wrap=name in {"day", "hour"})
    for heading, *_ in columns.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for number, label in enumerate(labels, start=1):
        table.add_row(*label, *(cells[number] for cells in columns.values()))
    if names:
        table.add_row()
    table.add_row(*(["total", *[""] * len(names)][: len(names)]), *(cells[-1] for cells in columns.values()))
    drawn = io.StringIO()
    Console(file=drawn, width=width, color_system=None, markup=False, highlight=False).print(table)
    yield from (line.rstrip() for line in drawn.getvalue().splitlines())


def name_cost(cost: dict[str, Any] | None) -> str | None:
    """What a batch costs, in a few words: $0.42 ($0.42 saved); None where it used nothing of which a price is known."""
    if cost is None:
        return None
    missing = ", ".join(cost["unpriced_models"])
    if cost["paid"] is None:
        return f"unknown, as no price of {missing} is known" if missing else None
    told = name_amount(cost["paid"], cost["currency"])
    if cost.get("saved") and Decimal(cost["saved"]):
        told += f" ({name_amount(cost['saved'], cost['currency'])} saved)"
    return f"{told}, without {missing}, of which no price is known" if missing else told


def _choose_columns(rows: Sequence[_Row]) -> dict[str, str]:
    """Member -> heading, without those that would be empty."""
    columns = {"requests": "requests", "failed": "failed", "reused_requests": "reused", **_TOKENS, **_AUDIO, **_MONEY}
    seldom = ("failed", "reused_requests", "cached_tokens", *_AUDIO)
    # A server of before it counted audio tells nothing of it.
    empty = {name for name in seldom if not any(row.get(name) for row in rows)}
    hidden = empty | {name for name in _MONEY if name not in rows[-1]}
    return {name: heading for name, heading in columns.items() if name not in hidden}


def _measure(names: Sequence[str], labels: Sequence[Sequence[str]], columns: Mapping[str, Sequence[str]]) -> int:
    """How many cells wide the table is if nothing is folded."""
    widths = [
        max(_LABEL_CELLS_MIN, *map(len, [name, *(label[place] for label in labels)]))
        for place, name in enumerate(names)
    ]
    widths += [max(map(len, cells)) for cells in columns.values()]
    return sum(widths) + _GAP_CELLS * len(widths)


def _name_label(row: _Row, name: str) -> str:
    if name == "key":
        return str(row["key_name"] or row["key"] or "-")
    if name == "hour":
        return str(row["hour"]).replace("T", " ").removesuffix("Z")
    return str(row[name] or "-")


def _name_values(rows: Sequence[_Row], name: str, currency: str) -> Iterator[str]:
    for row in rows:
        if name in _MONEY:
            # A sum that is without a part says so.
            mark = " +?" if row["unpriced_models"] and row[name] is not None else ""
            yield name_amount(row[name], currency) + mark
        else:
            yield f"{row[name]:,.0f}"
