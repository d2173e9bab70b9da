"""The input of every measurement: lines of 2,000 bytes, so that 50,000 of them are 100 MB."""

from pathlib import Path

from bench.null.answers import MODEL

__all__ = ["LINE_BYTES", "make_body", "make_custom_id", "make_line", "make_marker", "write_input_file"]

LINE_BYTES = 2000
_SYSTEM = "You sort messages of customers: answer with one word of billing, delivery, account or other."
_TEXT = (
    'I ordered two of the blue ones on the 14th and got three of the green ones, and the invoice says \\"paid\\" '
    "although the card was charged twice; could somebody look into this before the end of the week, please? "
)
_BODY = (
    '{{"model":"{model}","messages":[{{"role":"system","content":"{system}"}},'
    '{{"role":"user","content":"marker-{marker} {text}"}}],"max_tokens":64,"temperature":0}}'
)
_LINE = '{{"custom_id":"{custom_id}","body":{body}}}\n'


def make_marker(line: int) -> str:
    """How the null engine's log names the request of this line."""
    return f"{line:06d}"


def make_custom_id(line: int) -> str:
    """The custom id of a line."""
    return f"request-{line:06d}"


def _render(line: int, text: str) -> tuple[str, str]:
    body = _BODY.format(model=MODEL, system=_SYSTEM, marker=make_marker(line), text=text)
    return body, _LINE.format(custom_id=make_custom_id(line), body=body)


def _fill() -> str:
    """As much text as makes a line LINE_BYTES long; the end is padded, so that no escape is cut in two."""
    room = LINE_BYTES - len(_render(0, "")[1])
    return (_TEXT * (room // len(_TEXT))).ljust(room, ".")


_FILLING = _fill()


def make_body(line: int) -> bytes:
    """The request of a line, as it goes to an engine."""
    return _render(line, _FILLING)[0].encode()


def make_line(line: int) -> bytes:
    """A whole line of the input file."""
    return _render(line, _FILLING)[1].encode()


def write_input_file(path: Path, lines: int) -> Path:
    """Write the input file."""
    with path.open("wb") as file:
        for line in range(lines):
            file.write(make_line(line))
    return path
