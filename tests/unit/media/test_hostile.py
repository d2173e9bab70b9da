"""Nothing that is hostile gets through, and nothing that is good is taken for it."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from backfill.media import MediaLibrary, MediaRefused, MediaUnavailable
from backfill.media.links import parse_link
from backfill.network import AddressRules
from bench.media.hostile import try_references
from bench.media.hostile_names import leading
from bench.media.hostile_server import Asked, HostileServer, respond
from tests.support.media import configure, picture, png

SECRET = "hidden-5f1c"


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[MediaLibrary]:
    library = MediaLibrary(folder, configure(**settings))
    try:
        yield library
    finally:
        await library.close()


async def test_nothing_hostile_is_let_through(tmp_path: Path) -> None:
    count, let_through = await try_references(tmp_path)
    assert let_through == {}
    assert count >= 200


async def test_a_name_is_looked_up_anew_and_checked_each_time(tmp_path: Path, server: HostileServer) -> None:
    server.replies["/a"] = server.replies["/b"] = respond(png())
    with leading() as counts:
        async with opened(tmp_path) as library:
            media = library.open("batch", "owner")
            await media.get(picture(server.url("/a", "changing.test")))
            with pytest.raises(MediaRefused, match="is not at a public address"):
                await media.get(picture(server.url("/b", "changing.test")))
    assert counts == {"changing.test": 2}
    assert len(server.asked) == 1


async def test_of_several_addresses_only_the_public_ones_are_connected_to(
    tmp_path: Path, server: HostileServer
) -> None:
    server.replies["/a"] = respond(png())
    async with HostileServer("127.0.0.2", server.port) as inner:
        with leading():
            async with opened(tmp_path) as library:
                await library.open("batch", "owner").get(picture(server.url("/a", "private-first.test")))
        assert inner.connections == 0


async def test_a_name_that_takes_for_ever_takes_nothing_from_others(tmp_path: Path, server: HostileServer) -> None:
    server.replies["/a"] = respond(png())
    ended = threading.Event()

    def look_up(host: str, *others: Any, **options: Any) -> Any:
        if host == "stuck.test":
            ended.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "at last")
        return real(host, *others, **options)

    with leading(), pytest.MonkeyPatch.context() as patch:
        real = socket.getaddrinfo
        patch.setattr(socket, "getaddrinfo", look_up)
        async with opened(tmp_path, connections=1, connect_timeout_s=1.0, tries=3) as library:
            media = library.open("batch", "owner")
            with pytest.raises(MediaUnavailable, match=r"did not connect within 1 s \(media.connect_timeout_s\)"):
                await media.get(picture(server.url("/a", "stuck.test")))
            # Three look-ups are still stuck, and take no place from another.
            await media.get(picture(server.url("/a", "good.test")))
    ended.set()


@pytest.mark.parametrize("allow", ["inner.test", "INNER.TEST.", "127.0.0.2", "127.0.0.0/8"])
async def test_the_operator_opens_private_places(tmp_path: Path, allow: str) -> None:
    async with HostileServer("127.0.0.2") as inner:
        inner.replies["/a"] = respond(png())
        with leading():
            async with opened(tmp_path, allow=(allow,)) as library:
                await library.open("batch", "owner").get(picture(inner.url("/a", "inner.test")))
            # An opened name opens no other one, and no address.
            async with opened(tmp_path, allow=("other.test",)) as library:
                with pytest.raises(MediaRefused):
                    await library.open("other", "owner").get(picture(inner.url("/a", "inner.test")))


@pytest.mark.parametrize("allow", ["bücher.test", "BÜCHER.test", "xn--bcher-kva.test"])
@pytest.mark.parametrize("host", ["bücher.test", "xn--bcher-kva.test", "XN--BCHER-KVA.test."])
def test_a_name_is_opened_in_either_spelling(allow: str, host: str) -> None:
    assert AddressRules([allow]).allows_name(parse_link(f"https://{host}/").raw_host or "")
    assert not AddressRules([allow]).allows_name("bucher.test")


async def test_an_opened_name_opens_nothing_that_it_redirects_to(tmp_path: Path) -> None:
    async with HostileServer("127.0.0.2") as inner:
        inner.replies["/a"] = respond(status=302, location=inner.url("/b"))
        inner.replies["/b"] = respond(png())
        with leading():
            async with opened(tmp_path, allow=("inner.test",)) as library:
                with pytest.raises(MediaRefused, match=r"is redirected: .* is not at a public address"):
                    await library.open("batch", "owner").get(picture(inner.url("/a", "inner.test")))
        assert len(inner.asked) == 1


async def test_http_is_taken_only_if_it_is_allowed(tmp_path: Path, server: HostileServer) -> None:
    server.replies["/a"] = respond(png())
    async with opened(tmp_path, allow_http=False) as library:
        with pytest.raises(MediaRefused, match=r"only https: is \(media.allow_http\)"):
            await library.open("batch", "owner").get(picture(server.url("/a")))
    assert server.connections == 0


async def test_links_are_refused_where_the_operator_refuses_them(tmp_path: Path, server: HostileServer) -> None:
    async with opened(tmp_path, links="refuse") as library:
        with pytest.raises(MediaRefused, match=r"media\.links"):
            await library.open("batch", "owner").get(picture(server.url("/a")))
    assert server.connections == 0


async def test_redirects_are_followed_a_few_times(tmp_path: Path, server: HostileServer) -> None:
    statuses = (301, 302, 303, 307, 308)
    for hop, status in enumerate(statuses):
        server.replies[f"/{hop}"] = respond(b"elsewhere", status, location=f"{hop + 1}?token={SECRET}")
    server.replies["/5"] = respond(png())
    async with opened(tmp_path) as library:
        await library.open("batch", "owner").get(picture(server.url("/0")))
        server.replies["/5"] = respond(status=301, location="/6")
        with pytest.raises(MediaRefused, match="/0 is redirected more than 5 times"):
            await library.open("other", "owner").get(picture(server.url("/0")))
    assert [asked.target for asked in server.asked[1:6]] == [f"/{hop}?token={SECRET}" for hop in range(1, 6)]


BAD_ENDS: dict[str, Any] = {
    "/404": respond(status=404),
    "/500": respond(status=500),
    "/html": respond(b"<html>"),
    "/away": respond(status=302, location=f"http://127.0.0.2/{'x' * 30}?token={SECRET}"),
    "/file": respond(status=302, location=f"file:///etc/{SECRET}?token={SECRET}"),
    "/user": respond(status=302, location=f"http://user:{SECRET}@127.0.0.1/"),
    "/odd": respond(status=302, location=f"http://[{SECRET}/"),
    "/cut": respond(png(), content_length="1000"),
    "/big": respond(png(padding=2000)),
    "/coded": respond(png(), content_encoding=SECRET),
}


@pytest.mark.parametrize("path", BAD_ENDS)
async def test_no_secret_of_a_link_is_told_or_logged(tmp_path: Path, server: HostileServer, path: str) -> None:
    server.replies |= BAD_ENDS
    # The captured records hold what a log would show, and the traceback would stand in `exc_info`.
    with capture_logs() as logs:
        async with opened(tmp_path, tries=2, picture_size_bytes=1000) as library:
            link = picture(server.url(f"{path}?signature={SECRET}#{SECRET}"))
            with pytest.raises((MediaRefused, MediaUnavailable)) as caught:
                await library.open("batch", "owner").get(link)
    assert f"http://127.0.0.1:{server.port}{path}" in caught.value.message
    assert SECRET not in caught.value.message
    assert SECRET not in repr(caught.value.__cause__) + repr(caught.value.problem)
    assert SECRET not in repr(logs)
    assert f"?signature={SECRET}" in server.asked[0].target


@pytest.mark.parametrize(
    "source",
    [
        f"http://user:{SECRET}@127.0.0.1/a",
        f"https://{SECRET}@127.0.0.1/a",
        f"http://127.0.0.1:99999/{SECRET}",
        f"http://[{SECRET}/a",
        f"ftp://user:{SECRET}@host/a",
        f"/etc/{SECRET}",
        f"data:image/png;{SECRET}",
        f"data:image/png;base64,{SECRET}",
        f"http://nowhere.test/a?{SECRET}",
        f"http://{'a' * 64}.test/a?{SECRET}",
        f"http://127.0.0.1/a?{SECRET}\r\n",
        f"http://127.0.0.1/{'a' * 9000}?{SECRET}",
    ],
)
async def test_no_secret_of_what_is_no_good_link_is_told(tmp_path: Path, source: str) -> None:
    with capture_logs() as logs, leading():
        async with opened(tmp_path, tries=2) as library:
            with pytest.raises((MediaRefused, MediaUnavailable)) as caught:
                await library.open("batch", "owner").get(picture(source))
    assert SECRET not in caught.value.message + repr(logs)
    assert caught.value.param == "body.messages[0].content[0].image_url.url"


async def test_nothing_out_of_the_environment_is_used(
    tmp_path: Path, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.2:1")
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login somebody password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.replies["/a"] = respond(status=302, location="/b", set_cookie=f"session={SECRET}")
    server.replies["/b"] = respond(png())
    # A host with a name, for no jar keeps a cookie of an address.
    with leading():
        async with opened(tmp_path / "media") as library:
            for path in ("/a", "/b"):
                await library.open("batch", "owner").get(picture(server.url(path, "good.test")))
    assert len(server.asked) == 3
    assert SECRET not in repr(server.asked)


async def test_a_proxy_is_asked_for_all(tmp_path: Path, server: HostileServer) -> None:
    async def forward(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await respond(png())(asked, writer)

    target = "http://somewhere.test/a.png"
    server.replies[target] = forward
    proxy = f"http://user:{SECRET}@127.0.0.1:{server.port}"
    with leading() as counts:
        # The proxy's own address needs no leave, for the operator named it; others do, as far as they are seen.
        async with opened(tmp_path, proxy=proxy, allow=()) as library:
            await library.open("batch", "owner").get(picture(f"{target}?x=1"))
            with pytest.raises(MediaRefused, match="is not at a public address"):
                await library.open("batch", "owner").get(picture("http://169.254.169.254/latest"))
    assert counts == {}
    assert [asked.target for asked in server.asked] == [f"{target}?x=1"]
    assert server.asked[0].headers["proxy-authorization"].startswith("Basic ")


@pytest.mark.parametrize(("status", "kind"), [(403, MediaRefused), (407, MediaRefused), (502, MediaUnavailable)])
async def test_a_proxy_may_say_no(tmp_path: Path, server: HostileServer, status: int, kind: type[Exception]) -> None:
    server.replies["somewhere.test:443"] = respond(b"no", status)
    with capture_logs() as logs:
        async with opened(tmp_path, proxy=f"http://user:{SECRET}@127.0.0.1:{server.port}", tries=2) as library:
            with pytest.raises(kind, match="proxy") as caught:
                await library.open("batch", "owner").get(picture("https://somewhere.test/a.png"))
    assert SECRET not in str(caught.value) + repr(logs)


async def test_fetches_are_bounded_in_all_and_by_host(tmp_path: Path, server: HostileServer) -> None:
    running: dict[str, int] = {}
    most: dict[str, int] = {}
    go_on = asyncio.Event()
    many = asyncio.Event()

    async def reply(asked: Asked, writer: asyncio.StreamWriter) -> None:
        host = asked.headers["host"].partition(":")[0]
        for name in (host, "all"):
            running[name] = running.get(name, 0) + 1
            most[name] = max(most.get(name, 0), running[name])
        if running["all"] == 5:
            many.set()
        await go_on.wait()
        for name in (host, "all"):
            running[name] -= 1
        await respond(png())(asked, writer)

    with leading():
        async with opened(tmp_path, connections=5, connections_per_host=3) as library:
            asking = []
            for host in ("127.0.0.1", "good.test"):
                media = library.open(f"batch {host}", f"owner {host}")
                for number in range(20):
                    server.replies[f"/{number}"] = reply
                    asking.append(asyncio.create_task(media.get(picture(server.url(f"/{number}", host)))))
            await many.wait()
            go_on.set()
            await asyncio.gather(*asking)
    assert most.pop("good.test") in (2, 3)
    assert most == {"127.0.0.1": 3, "all": 5}
    assert len(server.asked) == 40


async def test_what_begins_as_nothing_that_is_taken_is_not_read(tmp_path: Path, server: HostileServer) -> None:
    sent = 0

    async def pour(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"<p>and so on</p>" * 4096)
            await writer.drain()
            sent += 1 << 16

    server.replies["/a"] = pour
    async with opened(tmp_path, picture_size_bytes=1 << 30) as library:
        with pytest.raises(MediaRefused, match="is of no known form, and no picture that is taken"):
            await library.open("batch", "owner").get(picture(server.url("/a")))
    assert sent < 32 << 20


async def test_what_is_announced_or_seen_to_be_too_much_is_not_read(tmp_path: Path, server: HostileServer) -> None:
    sent = 0

    async def pour(asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + png())
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()
            sent += 1 << 16

    server.replies["/a"] = pour
    async with opened(tmp_path, picture_size_bytes=4 << 20) as library:
        media = library.open("batch", "owner")
        with pytest.raises(MediaRefused, match="holds more than 4,194,304 bytes, the most that"):
            await media.get(picture(server.url("/a")))
        await media.close()
        assert library.cache.size_bytes == 0
    # What both ends of the connection hold, over what was taken.
    assert sent < 32 << 20
