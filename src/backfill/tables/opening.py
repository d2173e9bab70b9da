"""The table behind a name: by the end of the file's name, or on the Hugging Face hub."""

from pathlib import Path

from backfill.errors import InvalidInput
from backfill.inflation import name_unpacked
from backfill.tables.csv_table import CsvTable
from backfill.tables.jsonl_table import JsonlTable
from backfill.tables.table import Table

__all__ = ["HUB_PREFIX", "check_same_form", "is_table", "open_table"]

HUB_PREFIX = "hf://"
_FORMS = {
    ".csv": "CSV",
    ".tsv": "TSV",
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
}
_ENDINGS = {"CSV": ".csv", "TSV": ".tsv", "Parquet": ".parquet", "JSON lines": ".jsonl"}
_NEEDED = "pip install 'backfill[data]'"


def is_table(name: str) -> bool:
    """Whether this can be nothing but a table: JSON lines may be requests."""
    return name.startswith(HUB_PREFIX) or _FORMS.get(_find_suffix(name), "JSON lines") != "JSON lines"


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
        match form:
            case "CSV":
                return CsvTable(path)
            case "TSV":
                return CsvTable(path, "\t")
            case "Parquet":
                return _open_parquet(path)
            case _:
                return JsonlTable(path)
    except OSError as error:
        raise InvalidInput(f"The table {name} cannot be read: {error.strerror}.", param="input") from None


def check_same_form(source: str, target: Path) -> None:
    """Raise InvalidInput if answers would get a name that says another form than their table has."""
    wanted = "Parquet" if source.startswith(HUB_PREFIX) else _find_form(source)
    if _FORMS.get(target.suffix.lower()) != wanted:
        fitting = Path(name_unpacked(target.name)).with_suffix(_ENDINGS[wanted]).name
        message = f"{source} with its answers is {wanted}; call the output {fitting}, not {target.name}."
        raise InvalidInput(message, param="output")


def _find_form(name: str) -> str:
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


def _open_parquet(path: Path) -> Table:
    try:
        from backfill.tables.parquet_table import ParquetTable  # noqa: PLC0415 - large, and only some have it
    except ImportError:
        message = f"Parquet needs pyarrow: {_NEEDED}. CSV and JSON lines need nothing."
        raise InvalidInput(message, param="input", code="not_installed") from None
    return ParquetTable(path)


def _open_hub(name: str) -> Table:
    try:
        from backfill.tables.hub_table import HubTable  # noqa: PLC0415 - large, and only some have it
    except ImportError:
        message = f"{name} needs the packages datasets and pyarrow: pip install datasets pyarrow."
        raise InvalidInput(message, param="input", code="not_installed") from None
    return HubTable(name)
