"""What models cost, in a table that fits the terminal."""

import io
import shutil
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from backfill.catalogue import CatalogueModel, format_price

__all__ = ["draw_prices"]

_UNKNOWN = "?"


def draw_prices(models: Sequence[CatalogueModel], width: int | None = None) -> Iterator[str]:
    """The lines of the table; a price that is not known is a question mark."""
    table = Table(box=None, pad_edge=False, header_style="none", padding=(0, 2, 0, 0))
    table.add_column("model", overflow="fold")
    for heading in ("context", "input", "output", "batch"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("read", no_wrap=True)
    table.add_column("retired", no_wrap=True)
    for model in sorted(models, key=lambda model: model.id.lower()):
        table.add_row(
            model.id,
            _UNKNOWN if model.context_length is None else f"{model.context_length:,}",
            _name_price(model.price.input_per_million),
            _name_price(model.price.output_per_million),
            f"-{model.price.discount_percent} %" if model.price.discount_percent else "0 %",
            str(model.price_date or ""),
            str(model.retired or ""),
        )
    drawn = io.StringIO()
    columns = width or shutil.get_terminal_size().columns
    Console(file=drawn, width=columns, color_system=None, markup=False, highlight=False).print(table)
    yield from (line.rstrip() for line in drawn.getvalue().splitlines())


def _name_price(billionths: int | None) -> str:
    return _UNKNOWN if billionths is None else format_price(billionths)
