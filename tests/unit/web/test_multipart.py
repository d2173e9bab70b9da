"""The form reader: the same form gives the same fields and bytes, however the network cuts it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.errors import InvalidInput, TooLarge
from backfill.web.api.multipart import (
    FIELD_BYTES_MAX,
    FIELDS_MAX,
    FileBytes,
    FilePart,
    FormField,
    FormReader,
)

BOUNDARY = "b0undary"
CONTENT_TYPE = f'multipart/form-data; boundary="{BOUNDARY}"'


def field(name: str, value: str) -> bytes:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def file(content: bytes, disposition: str = 'form-data; name="file"; filename="in.jsonl"', *headers: str) -> bytes:
    more = "".join(f"{header}\r\n" for header in headers)
    head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n{more}\r\n"
    return head.encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def read(*pieces: bytes) -> tuple[dict[str, str], list[str], bytes]:
    """Fields, file names and the file's bytes."""
    reader = FormReader(CONTENT_TYPE)
    events = [event for piece in pieces for event in reader.feed(piece)]
    reader.finish()
    fields = {event.name: event.value for event in events if isinstance(event, FormField)}
    names = [event.filename for event in events if isinstance(event, FilePart)]
    return fields, names, b"".join(event.data for event in events if isinstance(event, FileBytes))


def read_filename(disposition: str) -> str:
    return read(file(b"x", f'form-data; name="file"; {disposition}') + END)[1][0]


# Bytes that look like the beginning of a boundary are the ones that parsers get wrong.
tricky = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"-", b"\r\n--", b"\r\n--b0und", b"\r\n--b0undary-", b"\r\n--b0undaryx", b"a", b"\0"]
    )
    | st.binary(max_size=40),
    max_size=12,
).map(b"".join)


@given(
    content=tricky.filter(lambda content: f"\r\n--{BOUNDARY}--".encode() not in b"\r\n" + content),
    note=st.text(max_size=20).filter(lambda text: "\r" not in text and "\n" not in text),
    file_first=st.booleans(),
    cuts=st.lists(st.integers(0, 600), max_size=12),
)
def test_a_form_cut_anywhere_reads_the_same(content: bytes, note: str, file_first: bool, cuts: list[int]) -> None:
    parts = [file(content), field("purpose", "batch-api"), field("note", note)]
    body = b"".join(parts if file_first else reversed(parts)) + END
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    pieces = [body[start:end] for start, end in pairwise(edges)]
    expected = ({"purpose": "batch-api", "note": note}, ["in.jsonl"], content)
    assert read(body) == expected
    assert read(*pieces) == expected


def test_a_form_in_single_bytes_reads_the_same() -> None:
    body = field("purpose", "batch-api") + file(b"one\r\ntwo\r\n--b0undar\n") + END
    assert read(*(bytes([byte]) for byte in body)) == (
        {"purpose": "batch-api"},
        ["in.jsonl"],
        b"one\r\ntwo\r\n--b0undar\n",
    )


def test_bytes_of_the_file_are_given_at_once() -> None:
    reader = FormReader(CONTENT_TYPE)
    reader.feed(file(b"").removesuffix(b"\r\n"))
    assert reader.feed(b"x" * 1000) == [FileBytes(b"x" * 1000)]


def test_a_file_part_without_filename_is_a_file() -> None:
    assert read(file(b"abc", 'form-data; name="file"') + END) == ({}, [""], b"abc")


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ('filename="a b.jsonl"', "a b.jsonl"),
        ("filename=plain.jsonl", "plain.jsonl"),
        ('filename="größe 数.jsonl"', "größe 数.jsonl"),
        (r'filename="say \"hi\".jsonl"', 'say "hi".jsonl'),
        ("filename*=UTF-8''gr%C3%B6%C3%9Fe.jsonl", "größe.jsonl"),
        ("filename=\"fallback.jsonl\"; filename*=utf-8'en'na%20me.jsonl", "na me.jsonl"),
        ("filename*=iso-8859-1''%E9t%E9.jsonl", "été.jsonl"),
        ("filename=\"x; filename*=UTF-8''y\"", "x; filename*=UTF-8''y"),
    ],
)
def test_filenames_in_both_forms(disposition: str, filename: str) -> None:
    assert read_filename(disposition) == filename


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "last boundary"),
        (b"no form at all", "does not begin with the boundary"),
        (field("a", "b"), "last boundary"),
        (file(b"abc"), "last boundary"),
        (field("a", "b").replace(b"form-data", b"attachment") + END, "Content-Disposition"),
        (field("a", "b").replace(b' name="a"', b"") + END, "Content-Disposition"),
        (field("a", "b").replace(b"\r\nb\r\n", b"\r\n\xff\r\n") + END, "UTF-8"),
        (file(b"abc", "form-data; name=file; filename*=klingon''abc") + END, "UTF-8 or ISO-8859-1"),
        *(
            (file(b"abc", f"form-data; name=file; filename*={charset}''a+2AA-xn--%ff%d8") + END, "UTF-8 or ISO-8859-1")
            for charset in ("undefined", "punycode", "utf-7", "idna", "unicode_escape", "utf-16", "zip", "rot13")
        ),
        (f"--{BOUNDARY}\r\nContent Disposition: form-data".encode(), "at byte 20"),
        (file(b"abc", "form-data; name=file; filename*=utf-8''%ff") + END, "filename*"),
        (
            file(b"YWJj", 'form-data; name="file"', "Content-Transfer-Encoding: base64") + END,
            "Content-Transfer-Encoding",
        ),
        (file(b"a") + file(b"b") + END, "one file"),
        (file(b"a", 'form-data; name="data"; filename="a.jsonl"') + END, "'file'"),
        (b"".join(field(f"f{number}", "x") for number in range(FIELDS_MAX + 1)) + END, "fields"),
        (f"--{BOUNDARY}\r\n{'x' * 10_000}: y\r\n\r\n".encode(), "longer headers"),
    ],
)
def test_what_is_no_form_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(body)
    assert said in caught.value.message


def test_a_field_cannot_be_used_to_send_a_file() -> None:
    with pytest.raises(TooLarge) as caught:
        read(field("note", "x" * (FIELD_BYTES_MAX + 1)) + END)
    assert caught.value.param == "note"


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={'b' * 400}"],
)
def test_a_boundary_is_needed(content_type: str) -> None:
    with pytest.raises(InvalidInput):
        FormReader(content_type)
