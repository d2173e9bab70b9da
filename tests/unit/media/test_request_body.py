"""What an engine gets of what a request names: as it is, made into something it takes, or nothing."""

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from backfill.config import MediaConfig
from backfill.media import MediaRefused, Named, check_fit, put_media_in
from backfill.media_file import MediaFile, MediaKind, MediaReference
from backfill.wire import find_references
from tests.support.media import clip, data_url, picture, png

CHAT = "/v1/chat/completions"
LINK = "https://example.org/a?signature=secret"
LLAMA = frozenset({"image/png", "image/jpeg"})
CONFIG = MediaConfig()


def ask(*sources: str) -> bytes:
    content = [{"type": "image_url", "image_url": {"url": source}} for source in sources]
    return json.dumps({"messages": [{"role": "user", "content": content}], "x": 1.50}).encode()


def encode(form: str) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(written, form)
    return written.getvalue()


def on_disk(folder: Path, data: bytes, media_type: str) -> MediaFile:
    path = folder / "a"
    path.write_bytes(data)
    return MediaFile(path=path, filename="picture.x", media_type=media_type, size_bytes=len(data), sha256="")


def urls_in(body: bytes) -> list[str]:
    return [part["image_url"]["url"] for part in json.loads(body)["messages"][0]["content"]]


def fill(body: bytes, found: dict[MediaReference, MediaFile], pictures: frozenset[str] | None) -> bytes:
    inline = [each for each in find_references(CHAT, body) if each.source.startswith("data:")]
    return put_media_in(CHAT, body, found, inline, pictures=pictures, config=CONFIG)


def test_an_engine_that_judges_itself_gets_what_is_there(tmp_path: Path) -> None:
    inline = data_url(b"whatever", "image/webp")
    body = ask(LINK, inline)
    filled = fill(body, {picture(LINK): on_disk(tmp_path, encode("WEBP"), "image/webp")}, None)
    assert urls_in(filled) == [data_url(encode("WEBP"), "image/webp"), inline]
    assert fill(ask(inline), {}, None) == ask(inline)


@pytest.mark.parametrize("is_inline", [True, False])
def test_others_get_what_they_take(tmp_path: Path, *, is_inline: bool) -> None:
    webp = encode("WEBP")
    source = data_url(webp, "image/webp") if is_inline else LINK
    found = {} if is_inline else {picture(LINK): on_disk(tmp_path, webp, "image/webp")}
    (url,) = urls_in(fill(ask(source), found, LLAMA))
    assert url.startswith("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        assert image.size == (20, 10)


def test_what_they_take_is_not_changed() -> None:
    body = ask(data_url(encode("PNG")), data_url(encode("JPEG"), "image/jpeg"))
    assert fill(body, {}, LLAMA) == body
    # A label that is wrong is put right.
    assert urls_in(fill(ask(data_url(encode("PNG"), "image/gif")), {}, LLAMA)) == [data_url(encode("PNG"))]


def test_what_is_not_whole_is_refused_where_it_stands() -> None:
    cut = encode("JPEG")[:300]
    with pytest.raises(MediaRefused) as refused:
        fill(ask(data_url(encode("PNG")), data_url(cut, "image/jpeg")), {}, LLAMA)
    assert refused.value.problem.param == "body.messages[0].content[1].image_url.url"


def test_an_engine_without_eyes_or_ears() -> None:
    for kinds, pictures, clips in (
        ({MediaKind.PICTURE}, LLAMA, False),
        ({MediaKind.PICTURE}, None, False),
        ({MediaKind.AUDIO}, None, True),
        (set(), frozenset(), False),
    ):
        check_fit("e", dict.fromkeys(kinds, "body.x"), pictures=pictures, clips=clips)
    for kind in MediaKind:
        with pytest.raises(MediaRefused, match="Engine e takes no") as refused:
            check_fit("e", {kind: "body.x"}, pictures=frozenset(), clips=False)
        assert refused.value.problem.param == "body.x"


def test_what_has_to_be_fetched() -> None:
    named = [picture(LINK), picture(data_url(png())), picture("file-1"), clip("HTTP://a/b")]
    assert Named.sort(named, passes_links=False) == Named(
        (named[0], named[2], named[3]),
        {MediaKind.PICTURE: named[0].param, MediaKind.AUDIO: named[3].param},
        has_data=True,
    )
    assert Named.sort(named, passes_links=True).fetched == (named[2],)
