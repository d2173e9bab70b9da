"""Which pictures and clips a request names, and the request with their bytes in their places. Pure.

Where they may stand: in a content part of a message (`image_url`, `input_image`, `input_audio`, `audio_url`, or
`image` with a `source`, as Anthropic has it), in what a tool gave back, and in `file` or `file_url` of an audio
endpoint. Bytes that stand in the request already are named too, as data: URLs.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

import msgspec

from backfill.batch import AUDIO_ENDPOINTS, ENDPOINTS, BatchProblem
from backfill.media_file import MediaKind, MediaReference

__all__ = [
    "MediaPlace",
    "ReferenceFault",
    "find_places",
    "find_references",
    "may_have_media",
    "may_have_media_elsewhere",
    "put_in",
]

# Members whose elements, or which themselves, are messages, items with content, or content parts.
_TALKED = ("messages", "input")
_SCORED = ("query", "documents", "text_1", "text_2")
_SCORING_ENDPOINTS = frozenset({"/v1/rerank", "/v1/score"})
_NESTED = ("content", "output")
# Parts that hold these are no part of a conversation's text: what a tool is called with looks as it likes.
_OPAQUE_TYPES = frozenset({"tool_use", "function_call", "server_tool_use"})
_LINKS_OF_OTHERS = ("video_url", "file_url")
_DEEPEST = 10
_Path = tuple[str | int, ...]
_Members = dict[str, msgspec.Raw]
_Object = dict[str, Any]

_ABSENT = msgspec.Raw()
_SOURCE_MEMBERS = {"base64": "data", "url": "url", "file": "file_id"}
_AUDIO_TYPES = {"mp3": "audio/mpeg"}
_AUDIO_FORMATS = {"audio/mpeg": "mp3", "audio/x-wav": "wav"}

_decode = msgspec.json.Decoder().decode
_decode_object = msgspec.json.Decoder(_Members).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class ReferenceFault(ValueError):
    """A picture or a clip is named in a form that says nothing."""

    def __init__(self, message: str, param: str | None, code: str = "invalid_media") -> None:
        super().__init__(message)
        self.problem = BatchProblem(code, message, param=param)


class _Form(Enum):
    """How an object names what belongs to it."""

    STRING = auto()
    """One member is the URL."""
    UPLOAD = auto()
    """`file_id` is the id of an uploaded file; the URL goes where it would stand else."""
    CLIP = auto()
    """`data` and `format`."""
    SOURCE = auto()
    """`type`, and `media_type` and `data`, or `url`, or `file_id`."""


class MediaPlace(NamedTuple):
    """Where a request names a picture or a clip."""

    reference: MediaReference
    path: _Path
    """Of the object that has the member."""
    member: str
    form: _Form
    detail: str | None = None
    """How closely a picture is to be looked at, if the request says so."""


class _Part(msgspec.Struct, gc=False):
    """Whatever a message, an item or a content part may have that is more than text."""

    content: msgspec.Raw = _ABSENT
    output: msgspec.Raw = _ABSENT
    image_url: msgspec.Raw = _ABSENT
    audio_url: msgspec.Raw = _ABSENT
    video_url: msgspec.Raw = _ABSENT
    input_audio: msgspec.Raw = _ABSENT
    source: msgspec.Raw = _ABSENT
    file: msgspec.Raw = _ABSENT
    file_id: msgspec.Raw = _ABSENT
    file_url: msgspec.Raw = _ABSENT


class _Message(msgspec.Struct, gc=False):
    content: msgspec.Raw = _ABSENT


# What may follow where a list begins that has more in it than numbers.
_OPENINGS = b'{["\t\r '
_LISTS_LOOKED_AT = 4
# What looks as if it held a picture itself is not gone through twice.
_LONG_BYTES = 1 << 14
_PLAIN = _Part()
_decode_messages = msgspec.json.Decoder(list[_Message]).decode
_decode_parts = msgspec.json.Decoder(list[_Part]).decode


def may_have_media(messages: bytes) -> bool:
    """Whether a chat's messages are worth a closer look; quick, and never wrong where it says no."""
    place = len(messages)
    for _ in range(_LISTS_LOOKED_AT):
        place = messages.rfind(b"[", 0, place)
        if place <= 0:
            return messages[:1] == b"{"  # no list but that of the messages
        if messages[place + 1] in _OPENINGS:
            break  # else it stands in a text
    if len(messages) > _LONG_BYTES and messages.find(b";base64,", 0, _LONG_BYTES) > 0:
        return True
    try:
        for message in _decode_messages(messages):
            if _has_more_than_text(bytes(message.content)):
                return True
    except msgspec.DecodeError:
        return True  # of another form
    return False


def may_have_media_elsewhere(value: bytes) -> bool:
    """As `may_have_media`, of any other member that may have content."""
    if value[:1] != b"[":
        return value[:1] == b"{"
    if value.find(b"{") < 0:
        return False
    try:
        for item in _decode_parts(value):
            content, item.content = bytes(item.content), _ABSENT
            if item != _PLAIN or _has_more_than_text(content):
                return True
    except msgspec.DecodeError:
        return True
    return False


def _has_more_than_text(content: bytes) -> bool:
    if content[:1] == b"[":
        return any(map(_PLAIN.__ne__, _decode_parts(content)))
    return content[:1] == b"{"


def find_references(endpoint: str, body: bytes, *, passes_links: bool = False) -> tuple[MediaReference, ...]:
    """What a request to `endpoint` names, in order.

    `passes_links`: the engine fetches for itself, so that links to things that are not fetched here are no fault.

    Raises:
        ReferenceFault: something is named in a form that says nothing, or links to what is not fetched here.

    """
    return tuple(place.reference for place in find_places(endpoint, body, passes_links=passes_links))


def find_places(endpoint: str | None, body: bytes, *, passes_links: bool = False) -> Iterator[MediaPlace]:
    """As `find_references`, with where they stand; without an endpoint, what stands in messages."""
    try:
        members = _decode(body)
    except (msgspec.DecodeError, RecursionError):
        members = None
    if not isinstance(members, dict):
        message = "The request body is not a JSON object."
        raise ReferenceFault(message, "body")
    if endpoint in AUDIO_ENDPOINTS:
        yield from _find_file(members)
        return
    for name in _list_holders(endpoint):
        if name in members:
            yield from _walk(members[name], (name,), passes_links=passes_links)


def _list_holders(endpoint: str | None) -> tuple[str, ...]:
    """The members in which an endpoint would look for content; all of them, if it is not known."""
    if endpoint in _SCORING_ENDPOINTS:
        return _SCORED
    return _TALKED if endpoint in ENDPOINTS else _TALKED + _SCORED


def put_in(endpoint: str, body: bytes, urls: Mapping[str, str]) -> bytes:
    """The request with data: URLs in the places of what `urls` has them for, by their sources.

    What is not on the way to a changed place keeps its bytes.
    """
    found = find_places(endpoint, body, passes_links=True)
    changed = [place for place in found if urls.get(place.reference.source, "") not in {"", place.reference.source}]
    return b"".join(_rebuild(body, changed, 0, urls)) if changed else body


def _find_file(members: _Object) -> Iterator[MediaPlace]:
    given = [name for name in ("file", "file_url") if not _is_empty(members.get(name))]
    if len(given) > 1:
        message = "body.file and body.file_url name the audio both; a request has one of them."
        raise ReferenceFault(message, "body.file_url")
    for name in given:
        yield _place((), name, MediaKind.AUDIO, _read_text(members[name], (name,)))


def _is_empty(value: object) -> bool:
    return value is None or value in ("", [])


def _walk(value: object, path: _Path, *, passes_links: bool) -> Iterator[MediaPlace]:
    if not isinstance(value, list | dict):
        return
    if len(path) > _DEEPEST:
        message = f"{_name(path)} is nested too deeply for a message's content."
        raise ReferenceFault(message, _name(path))
    if isinstance(value, list):
        for position, element in enumerate(value):
            yield from _walk(element, (*path, position), passes_links=passes_links)
        return
    kind = value.get("type")
    if isinstance(kind, str) and kind in _OPAQUE_TYPES:
        return
    yield from _read_part(kind, value, path)
    if not passes_links:
        _refuse_other_links(kind, value, path)
    for name in _NESTED:
        if name in value:
            yield from _walk(value[name], (*path, name), passes_links=passes_links)


def _read_part(kind: object, members: _Object, path: _Path) -> Iterator[MediaPlace]:
    if members.get("image_url") is not None:
        yield _read_url(MediaKind.PICTURE, members, path, "image_url")
    elif kind == "input_image" and members.get("file_id") is not None:
        source = _read_text(members["file_id"], (*path, "file_id"))
        yield _place(path, "image_url", MediaKind.PICTURE, source, _Form.UPLOAD, detail=members.get("detail"))
    elif kind in ("image_url", "input_image"):
        needed = "image_url" if kind == "image_url" else "image_url or file_id"
        message = f"{_name(path)} is of type {kind} and needs {needed}."
        raise ReferenceFault(message, _name((*path, "image_url")))
    elif kind == "image" and "source" in members:
        yield _read_source(members["source"], (*path, "source"))
    if members.get("audio_url") is not None:
        yield _read_url(MediaKind.AUDIO, members, path, "audio_url")
    if members.get("input_audio") is not None:
        yield _read_clip(members["input_audio"], (*path, "input_audio"))


def _read_url(kind: MediaKind, members: _Object, path: _Path, name: str) -> MediaPlace:
    """Of a part whose member is a URL, or an object with one, or with an upload's id."""
    value, below = members[name], (*path, name)
    if isinstance(value, str):
        return _place(path, name, kind, _read_text(value, below), detail=members.get("detail"))
    form = "a URL, or an object with a url"
    inner = _read_object(value, below, form)
    for member, how in (("url", _Form.STRING), ("file_id", _Form.UPLOAD)):
        if inner.get(member) is not None:
            source = _read_text(inner[member], (*below, member))
            return _place(below, "url", kind, source, how, detail=inner.get("detail", members.get("detail")))
    message = f"{_name(below)} must be {form}."
    raise ReferenceFault(message, _name(below))


def _read_clip(value: object, path: _Path) -> MediaPlace:
    inner = _read_object(value, path, "an object with data and format")
    data, name = (_read_text(inner.get(member), (*path, member)) for member in ("data", "format"))
    source = f"data:{_AUDIO_TYPES.get(name, f'audio/{name}')};base64,{data}"
    return _place(path, "data", MediaKind.AUDIO, source, _Form.CLIP)


def _read_source(value: object, path: _Path) -> MediaPlace:
    inner = _read_object(value, path, "an object with a type")
    kind = inner.get("type")
    member = _SOURCE_MEMBERS.get(kind) if isinstance(kind, str) else None
    if member is None:
        message = f"{_name(path)}.type must be base64, url or file."
        raise ReferenceFault(message, _name((*path, "type")))
    source = _read_text(inner.get(member), (*path, member))
    if kind == "base64":
        source = f"data:{_read_text(inner.get('media_type'), (*path, 'media_type'))};base64,{source}"
    return _place(path, member, MediaKind.PICTURE, source, _Form.SOURCE)


def _refuse_other_links(kind: object, members: _Object, path: _Path) -> None:
    """A link to something that is neither picture nor audio would be fetched by the engine, from wherever it leads."""
    found = {name: members[name] for name in _LINKS_OF_OTHERS if name in members}
    source, file = members.get("source"), members.get("file")
    if kind == "document" and isinstance(source, dict):
        found["source"] = source.get("url")
    if kind == "file" and isinstance(file, dict):
        found["file"] = file.get("file_url")
    for name, value in found.items():
        link = value.get("url") if isinstance(value, dict) else value
        if isinstance(link, str) and link and link[:5].lower() != "data:":
            param = _name((*path, name))
            message = f"{param} is a link, and only pictures and audio are fetched; give its bytes as a data: URL."
            raise ReferenceFault(message, param)


def _place(
    path: _Path, member: str, kind: MediaKind, source: str, form: _Form = _Form.STRING, *, detail: object = None
) -> MediaPlace:
    named = "file_id" if form is _Form.UPLOAD else member
    reference = MediaReference(kind, source, _name((*path, named)))
    return MediaPlace(reference, path, member, form, detail if isinstance(detail, str) else None)


def _rebuild(
    value: bytes | msgspec.Raw, places: Sequence[MediaPlace], depth: int, urls: Mapping[str, str]
) -> Iterator[bytes | msgspec.Raw]:
    """The pieces of a value, of which some members are others now."""
    below: dict[str | int, list[MediaPlace]] = defaultdict(list)
    for place in places:
        if len(place.path) > depth:
            below[place.path[depth]].append(place)
    if bytes(memoryview(value)[:1]) == b"[":
        opening = b"["
        for position, element in enumerate(_decode_array(value)):
            yield opening
            yield from _rebuild(element, below[position], depth + 1, urls) if position in below else (element,)
            opening = b","
        yield b"]"
        return
    members = _decode_object(value)
    for place in places:
        if len(place.path) == depth:
            _change(members, place, urls[place.reference.source])
    opening = b"{"
    for name, member in members.items():
        yield opening + _encode(name) + b":"
        yield from _rebuild(member, below[name], depth + 1, urls) if name in below else (member,)
        opening = b","
    yield b"}"


def _change(members: _Members, place: MediaPlace, url: str) -> None:
    """Have an object hold a data: URL, in its own form."""
    media_type, _, data = url.removeprefix("data:").partition(";base64,")
    changed = {place.member: url}
    match place.form:
        case _Form.UPLOAD:
            members.pop("file_id", None)
        case _Form.CLIP:
            changed = {"data": data, "format": _AUDIO_FORMATS.get(media_type, media_type.rpartition("/")[2])}
        case _Form.SOURCE:
            members.clear()
            changed = {"type": "base64", "media_type": media_type, "data": data}
        case _Form.STRING:
            pass
    members.update((name, msgspec.Raw(_encode(value))) for name, value in changed.items())


def _read_object(value: object, path: _Path, form: str) -> _Object:
    if not isinstance(value, dict):
        message = f"{_name(path)} must be {form}."
        raise ReferenceFault(message, _name(path))
    return value


def _read_text(value: object, path: _Path) -> str:
    if not isinstance(value, str) or not value:
        message = f"{_name(path)} must be a string, and not empty."
        raise ReferenceFault(message, _name(path))
    return value


def _name(path: Iterable[str | int]) -> str:
    return "body" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
