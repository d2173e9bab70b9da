"""What form of table a file has, by its beginning and its name; and whether it is no table but requests."""

from enum import StrEnum
from pathlib import PurePath

import msgspec

from backfill.errors import InvalidInput
from backfill.inflation import name_unpacked

__all__ = ["LOOK_BYTES", "Form", "holds_requests", "recognise_form"]

LOOK_BYTES = 1 << 16
"""So much of a file is enough to look at."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PARQUET = b"PAR1"
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")
_OTHERS = (
    (b"PK\x03\x04", "a ZIP file, as Excel's workbooks are; save the sheet as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "a workbook of old Excel; save the sheet as CSV in UTF-8"),
    (b"\x1f\x8b", "a gzip file; decompress it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file; decompress it first"),
    (b"%PDF", "a PDF file"),
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8"),
)


class Form(StrEnum):
    """Forms of tables."""

    CSV = "CSV"
    TSV = "TSV"
    JSONL = "JSON lines"
    PARQUET = "Parquet"


_BY_ENDING = {".csv": Form.CSV, ".tsv": Form.TSV, ".jsonl": Form.JSONL, ".ndjson": Form.JSONL}


def recognise_form(beginning: bytes, filename: str) -> Form:
    """The form of a file that begins so; raises InvalidInput if it can be no table."""
    if beginning.startswith(_PARQUET):
        return Form.PARQUET
    for mark, told in _OTHERS:
        if beginning.startswith(mark):
            raise InvalidInput(f"{filename} is {told}.", param="file", code="unknown_table_format")
    if b"\0" in beginning:
        message = f"{filename} is neither text nor Parquet; a table is CSV, TSV, JSON lines or Parquet."
        raise InvalidInput(message, param="file", code="unknown_table_format")
    by_name = _BY_ENDING.get(PurePath(filename).suffix.lower())
    if by_name is not None:
        return by_name
    return Form.JSONL if beginning.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"{") else Form.CSV


def holds_requests(beginning: bytes, filename: str) -> bool:
    """Whether a file that begins so holds requests, a JSON object a line, or is meant to, and no rows of a table."""
    suffix = PurePath(name_unpacked(filename)).suffix.lower()
    if beginning.startswith(_PARQUET) or suffix in {".csv", ".tsv", ".parquet", ".pq"}:
        return False
    text = beginning.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if beginning.startswith(_COMPRESSED):
        return True
    if not text.startswith(b"{"):
        # What is said of such a file as one of requests says better what it is, unless it looks like a table.
        return _BY_ENDING.get(suffix) is Form.JSONL or not _is_delimited(text)
    line = text.partition(b"\n")[0]
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        # The line is longer than what is looked at, or broken.
        return b'"custom_id"' in line or b'"body"' in line or not line.startswith(b'{"')
    return isinstance(row, dict) and ("custom_id" in row or isinstance(row.get("body"), dict))


def _is_delimited(text: bytes) -> bool:
    line = text.partition(b"\n")[0]
    return b"\0" not in line and any(mark in line for mark in (b",", b";", b"\t"))
