"""multipart/form-data as it comes: the file's bytes are passed on at once, whatever stands before or after them.

Clients put the file before or behind the other fields, with or without a Content-Length, so nothing is known in
advance. Fields are bounded in size and number; the file is bounded by whoever takes its bytes.
"""

import re
from typing import NamedTuple, NoReturn
from urllib.parse import unquote_to_bytes

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from backfill.errors import InvalidInput, TooLarge

__all__ = ["FIELDS_MAX", "FIELD_BYTES_MAX", "FileBytes", "FilePart", "FormEvent", "FormField", "FormReader"]

FIELD_BYTES_MAX = 64 * 1024
FIELDS_MAX = 32
_PLAIN_ENCODINGS = frozenset({b"", b"binary", b"8bit", b"7bit"})
_QUOTED = re.compile(rb'"(?:\\.|[^"\\])*"')
# What RFC 8187 has, under every usual name. Python knows many more charsets, some of which decode to no text at all.
_CHARSETS = {"utf-8": "utf-8", "utf8": "utf-8", "iso-8859-1": "latin-1", "latin1": "latin-1", "us-ascii": "ascii"}
_EXTENDED_FILENAME = re.compile(rb";\s*filename\*\s*=\s*([\w!#$%&+^`{}~-]+)'[^']*'([^;\s]+)", re.IGNORECASE)


class FormField(NamedTuple):
    """A field that is complete."""

    name: str
    value: str


class FilePart(NamedTuple):
    """The file begins; `filename` as the client wrote it, empty if it wrote none."""

    filename: str


class FileBytes(NamedTuple):
    """The file's next bytes."""

    data: bytes


FormEvent = FormField | FilePart | FileBytes


class FormReader:
    """Feed it the body in pieces of any size; each gives the events that it completes."""

    def __init__(self, content_type: str, file_field: str = "file") -> None:
        self._file_field = file_field
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            _refuse("The Content-Type has no boundary.")
        self._events: list[FormEvent] = []
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._header_value = b""
        self._field = ""
        self._value: bytearray | None = None
        """None while the part is the file."""
        self._fields = 0
        self._has_file = False
        self._has_parts = False
        self._ended = False
        self._taken_bytes = 0
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._take_header_name,
                    "on_header_value": self._take_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._take_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError:
            _refuse("The boundary in the Content-Type is too long.")

    def feed(self, data: bytes) -> list[FormEvent]:
        """The events in the next bytes of the body; raises InvalidInput where they are no such form."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            _refuse(self._explain(error))
        self._taken_bytes += len(data)
        events, self._events = self._events, []
        return events

    def finish(self) -> None:
        """Raises InvalidInput if the body ended before its last boundary."""
        if not self._ended:
            _refuse("The body ends before its last boundary.")

    def _explain(self, error: FormParserError) -> str:
        """The parser's fault in our words; positions count from 1."""
        if "Maximum header" in str(error):
            return "A part has more or longer headers than any form needs."
        position = self._taken_bytes + getattr(error, "offset", 0) + 1
        if position == 1 or not self._has_parts:
            return f"It does not begin with the boundary that the Content-Type names (byte {position})."
        return f"It does not have the form of multipart/form-data at byte {position}."

    def _begin_part(self) -> None:
        self._has_parts = True
        self._headers = {}
        self._header_name = self._header_value = b""

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.strip().lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        kind, options = parse_options_header(disposition)
        if kind != b"form-data" or b"name" not in options:
            _refuse("A part has no Content-Disposition of form-data with a name.")
        self._field = _decode(options[b"name"])
        filename = _find_filename(disposition, options)
        if self._field == self._file_field:
            self._begin_file(filename or "")
        elif filename is not None:
            raise InvalidInput(
                f"The part {self._field[:64]!r} holds a file; its name must be {self._file_field!r}.", param=self._field
            )
        else:
            self._begin_field()

    def _begin_file(self, filename: str) -> None:
        if self._has_file:
            raise InvalidInput("Send one file per request.", param=self._file_field)
        encoding = self._headers.get(b"content-transfer-encoding", b"").strip().lower()
        if encoding not in _PLAIN_ENCODINGS:
            raise InvalidInput(
                "The file must be sent as it is, without a Content-Transfer-Encoding.", param=self._file_field
            )
        self._has_file = True
        self._value = None
        self._events.append(FilePart(filename))

    def _begin_field(self) -> None:
        self._fields += 1
        if self._fields > FIELDS_MAX:
            message = f"The form has more than {FIELDS_MAX} fields besides the file."
            raise InvalidInput(message, code="malformed_multipart")
        self._value = bytearray()

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._value is None:
            self._events.append(FileBytes(data[start:end]))
            return
        self._value += data[start:end]
        if len(self._value) > FIELD_BYTES_MAX:
            message = f"The field {self._field[:64]!r} is longer than {FIELD_BYTES_MAX} bytes."
            raise TooLarge(message, param=self._field, code="field_too_large")

    def _end_part(self) -> None:
        if self._value is not None:
            self._events.append(FormField(self._field, _decode(bytes(self._value))))

    def _end(self) -> None:
        self._ended = True


def _find_filename(disposition: bytes, options: dict[bytes, bytes]) -> str | None:
    """The extended form where there is one: whoever sends both means it for readers that know it (RFC 6266)."""
    extended = _EXTENDED_FILENAME.search(_QUOTED.sub(b'""', disposition))
    if extended:
        charset = extended[1].decode("ascii")
        try:
            return unquote_to_bytes(extended[2]).decode(_CHARSETS[charset.lower()])
        except KeyError:
            _refuse(f"The filename* of a part is in {charset[:64]}; it must be in UTF-8 or ISO-8859-1.")
        except UnicodeDecodeError:
            _refuse(f"The filename* of a part is not valid {charset}.")
    filename = options.get(b"filename")
    return None if filename is None else _decode(filename)


def _decode(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        _refuse("A name or field of the form is not valid UTF-8.")


def _refuse(reason: str) -> NoReturn:
    raise InvalidInput(f"The multipart body cannot be read. {reason}", code="malformed_multipart")
