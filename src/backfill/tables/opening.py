"""The table behind a name: by the end of the file's name, or on the Hugging Face hub."""

import sys
from pathlib import Path

from backfill.errors import InvalidInput
from backfill.inflation import name_unpacked
from backfill.tables.csv_table import CsvTable
from backfill.tables.jsonl_table import JsonlTable
from backfill.tables.recognition import Form
from backfill.tables.table import Table

__all__ = ["HUB_PREFIX", "NO_PARQUET", "check_same_form", "has_parquet", "is_table", "open_form", "open_table"]

HUB_PREFIX = "hf://"
_FORMS = {
    ".csv": Form.CSV,
    ".tsv": Form.TSV,
    ".parquet": Form.PARQUET,
    ".pq": Form.PARQUET,
    ".jsonl": Form.JSONL,
    ".ndjson": Form.JSONL,
}
_ENDINGS = {Form.CSV: ".csv", Form.TSV: ".tsv", Form.PARQUET: ".parquet", Form.JSONL: ".jsonl"}
NO_PARQUET = "Parquet needs pyarrow: pip install 'backfill[data]'. CSV and JSON lines need nothing."
"""What is said where it is not installed."""


def is_table(name: str) -> bool:
    """Whether this can be nothing but a table: JSON lines may be requests."""
    return name.startswith(HUB_PREFIX) or _FORMS.get(_find_suffix(name), Form.JSONL) is not Form.JSONL


def open_table(name: str) -> Table:
    """Open a table; raises InvalidInput, with the line where there is one, if it is none."""
    if name.startswith(HUB_PREFIX):
        return _open_hub(name)
    path = Path(name)
    form = _find_form(name)
    if not path.is_file():
        what = (
            f"{name} is a folder; name a file in it" if path.is_dir() else f"There is no table {name}; check its name"
        )
        raise InvalidInput(f"{what}.", param="input")
    try:
        return open_form(path, form)
    except OSError as error:
        raise InvalidInput(f"The table {name} cannot be read: {error.strerror}.", param="input") from None


def open_form(path: Path, form: Form, name: str | None = None) -> Table:
    """Open a table of that form, whatever its file is called; `name`: as messages call it.

    Raises InvalidInput, with the line where there is one, if it is none, and OSError.
    """
    match form:
        case Form.CSV:
            return CsvTable(path, name=name)
        case Form.TSV:
            return CsvTable(path, "\t", name)
        case Form.PARQUET:
            return _open_parquet(path, name)
        case Form.JSONL:
            return JsonlTable(path, name)


def has_parquet() -> bool:
    """Whether what Parquet needs is installed."""
    return any((Path(folder) / "pyarrow").is_dir() for folder in sys.path)


def check_same_form(source: str, target: Path) -> None:
    """Raise InvalidInput if answers would get a name that says another form than their table has."""
    wanted = Form.PARQUET if source.startswith(HUB_PREFIX) else _find_form(source)
    if _FORMS.get(target.suffix.lower()) != wanted:
        fitting = Path(name_unpacked(target.name)).with_suffix(_ENDINGS[wanted]).name
        message = f"{source} with its answers is {wanted}; call the output {fitting}, not {target.name}."
        raise InvalidInput(message, param="output")


def _find_form(name: str) -> Form:
    suffix = _find_suffix(name)
    if suffix not in _FORMS:
        known = ", ".join(_FORMS)
        raise InvalidInput(f"{name} is no table by its name; a table ends in one of {known}.", param="input")
    if _FORMS[suffix] == "Parquet" and name_unpacked(name) != name:
        raise InvalidInput(f"{name} is Parquet that was compressed once more; decompress it first.", param="input")
    return _FORMS[suffix]


def _find_suffix(name: str) -> str:
    """Of a compressed file that of what it holds."""
    return Path(name_unpacked(name)).suffix.lower()


def _open_parquet(path: Path, name: str | None) -> Table:
    try:
        from backfill.tables.parquet_table import ParquetTable  # noqa: PLC0415 - large, and only some have it
    except ImportError:
        raise InvalidInput(NO_PARQUET, param="input", code="not_installed") from None
    return ParquetTable(path, name)


def _open_hub(name: str) -> Table:
    try:
        from backfill.tables.hub_table import HubTable  # noqa: PLC0415 - large, and only some have it
    except ImportError:
        message = f"{name} needs the packages datasets and pyarrow: pip install datasets pyarrow."
        raise InvalidInput(message, param="input", code="not_installed") from None
    return HubTable(name)
