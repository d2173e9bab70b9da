"""What a file is that holds no JSON lines: known by its first bytes, so that one sentence tells it."""

from backfill.batch import BatchProblem
from backfill.wire import quote

__all__ = ["FormatProbe"]

_FORMATS = (
    (b"\x1f\x8b", "a gzip file; decompress it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file; decompress it first"),
    (b"BZh", "a bzip2 file; decompress it first"),
    (b"\xfd7zXZ\0", "an xz file; decompress it first"),
    (b"PK\x03\x04", "a ZIP file (as Excel's workbooks are, too); unpack it, and upload JSON lines"),
    (b"PAR1", "a Parquet file; write its rows as JSON lines"),
    (b"%PDF", "a PDF file"),
    (b"<", "XML or HTML, maybe the error page of a download"),
    (b"\xff\xfe\0\0", "UTF-32 text; save it as UTF-8"),
    (b"\0\0\xfe\xff", "UTF-32 text; save it as UTF-8"),
    (b"\xff\xfe", "UTF-16 text; save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text; save it as UTF-8"),
)
_FORM = '{"custom_id": "...", "body": {...}}'
_LEAST_UTF16 = 4
_SEPARATORS = ",;\t"


class FormatProbe:
    """Shown the requests that are no JSON objects, it says whether that is because of the whole file."""

    def __init__(self) -> None:
        self.problem: BatchProblem | None = None
        """What the file is; None as long as it may be JSON lines."""
        self._is_opened = False
        self._guess: str | None = None
        """What its first line looks like, if the second one is no request either."""

    def look_at(self, line: bytes, number: int) -> None:
        """Look at the request of this number, from 1, which did not parse."""
        name = None
        if number == 1:
            name, self._guess = _recognise(line), _guess_by_text(line.strip())
            text = line.strip()
            # The whole object on more than one line ends its first one so, or it is just a line cut off.
            self._is_opened = text.startswith(b"{") and text.endswith((b"{", b"[", b","))
        elif number == 2:
            is_pretty = self._is_opened and line.lstrip().startswith((b'"', b"}", b"]"))
            name = "pretty-printed JSON; each request must stand on one line" if is_pretty else self._guess
        if name is not None:
            self._conclude(name)

    def finish(self, requests: int) -> None:
        """The file is at its end, with so many requests in all."""
        if requests == 1 and self._guess is not None and self.problem is None:
            self._conclude(self._guess)

    def _conclude(self, name: str) -> None:
        message = f"The file is {name}. Each line must be a JSON object: {_FORM}."
        self.problem = BatchProblem("invalid_file_format", message)


def _recognise(line: bytes) -> str | None:
    for beginning, name in _FORMATS:
        if line.startswith(beginning):
            return name
    if len(line) >= _LEAST_UTF16 and any(line[:64:2]) != any(line[1:64:2]):
        return "UTF-16 text; save it as UTF-8"
    text = line.strip()
    if text.startswith(b"[") and text[1:].lstrip()[:1] in (b"", b"{"):
        return "a JSON array; put each request on a line of its own, without the brackets and the commas between"
    return None


def _guess_by_text(text: bytes) -> str | None:
    if text.startswith((b"{", b"[")) or not _is_text(text):
        return None
    if any(separator in text.decode() for separator in _SEPARATORS):
        return f"CSV or other text (it begins with {quote(text.decode())}), not JSON lines"
    return None


def _is_text(line: bytes) -> bool:
    try:
        return line.decode().replace("\t", " ").isprintable()
    except UnicodeDecodeError:
        return False
