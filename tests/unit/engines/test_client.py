"""Every end a request can take, over real sockets."""

import asyncio
import gzip
import socket
import tracemalloc
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from yarl import URL

from backfill.batch import Usage
from backfill.engines import Answered, EngineClient, Lost, LostReason, Refused, client
from backfill.errors import EngineUnavailable
from tests.unit.engines.conftest import HANG, ScriptedServer

CHAT = "/v1/chat/completions"
ANSWER = (
    b'{"id":"a","choices":[{"message":{}}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}}'
)


@pytest_asyncio.fixture
async def engine_client() -> AsyncIterator[EngineClient]:
    async with EngineClient(request_timeout_s=30) as opened:
        yield opened


async def test_an_answer_is_the_engines_own_bytes(server: ScriptedServer, engine_client: EngineClient) -> None:
    server.answer(200, ANSWER)
    reply = await engine_client.send(server.url / "v1", CHAT, {"Authorization": "Bearer k"}, b'{"a": 1}')
    assert reply == Answered(200, ANSWER, Usage(3, 2, 1))
    [(head, body)] = server.requests
    assert body == b'{"a": 1}'
    assert head.startswith(b"POST /v1 HTTP/1.1\r\n")
    assert b"Authorization: Bearer k\r\n" in head
    assert b"Content-Type: application/json\r\n" in head


async def test_an_answer_in_chunks(server: ScriptedServer, engine_client: EngineClient) -> None:
    server.answers.append(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for chunk in (ANSWER[:9], ANSWER[9:], b""):
        server.answers[0] += b"%x\r\n%b\r\n" % (len(chunk), chunk)
    assert await engine_client.send(server.url, CHAT, {}, b"{}") == Answered(200, ANSWER, Usage(3, 2, 1))


async def test_a_large_body_goes_through(server: ScriptedServer, engine_client: EngineClient) -> None:
    server.answer(200, ANSWER)
    body = b'{"a":"' + b"x" * 3_000_000 + b'"}'
    assert isinstance(await engine_client.send(server.url, CHAT, {}, body), Answered)
    assert server.requests[0][1] == body


async def test_a_connection_is_used_again(server: ScriptedServer, engine_client: EngineClient) -> None:
    server.answer(200, ANSWER)
    server.answers.append(b"")  # closes: with a second connection this would be the answer to the first request there
    assert isinstance(await engine_client.send(server.url, CHAT, {}, b"{}"), Answered)
    reply = await engine_client.send(server.url, CHAT, {}, b'{"second":1}')
    assert isinstance(reply, Lost)
    assert reply.reason is LostReason.DISCONNECTED
    # Sent once: the engine may have begun to compute it.
    assert [body for _, body in server.requests] == [b"{}", b'{"second":1}']


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", LostReason.DISCONNECTED),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\n{", LostReason.DISCONNECTED),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", LostReason.DISCONNECTED),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", LostReason.BAD_ANSWER),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", LostReason.BAD_ANSWER),
    ],
)
async def test_broken_answers_are_lost(
    server: ScriptedServer, engine_client: EngineClient, answer: bytes, reason: LostReason
) -> None:
    server.answers.append(answer)
    reply = await engine_client.send(server.url, CHAT, {}, b"{}")
    assert isinstance(reply, Lost)
    assert reply.reason is reason
    assert not reply.never_sent


async def test_nobody_listens(engine_client: EngineClient) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = URL.build(scheme="http", host="127.0.0.1", port=taken.getsockname()[1])
        reply = await engine_client.send(url, CHAT, {}, b"{}")
        with pytest.raises(EngineUnavailable, match="connection refused"):
            await engine_client.get(url, {}, 5)
    assert isinstance(reply, Lost)
    assert reply.never_sent
    assert reply.message == f"{url.origin()} cannot be reached: connection refused."


async def test_no_such_host(engine_client: EngineClient) -> None:
    reply = await engine_client.send(URL("http://engine.invalid/v1"), CHAT, {}, b"{}")
    assert isinstance(reply, Lost)
    assert reply.never_sent


async def test_too_slow(server: ScriptedServer) -> None:
    server.answers += [HANG, HANG]
    async with EngineClient(request_timeout_s=0.05) as impatient:
        replies = await asyncio.gather(*(impatient.send(server.url, CHAT, {}, b"{}") for _ in range(2)))
        server.answer(200, ANSWER)
        assert isinstance(await impatient.send(server.url, CHAT, {}, b"{}"), Answered)
    assert [type(reply) for reply in replies] == [Lost, Lost]
    assert {reply.reason for reply in replies if isinstance(reply, Lost)} == {LostReason.TIMEOUT}
    await asyncio.wait_for(server.hung_up.wait(), 5)


async def test_a_timeout_leaves_the_task_as_it_was(server: ScriptedServer) -> None:
    server.answers.append(HANG)
    async with EngineClient(request_timeout_s=0.05) as impatient:
        await impatient.send(server.url, CHAT, {}, b"{}")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancel_passes_through_and_closes_the_connection(
    server: ScriptedServer, engine_client: EngineClient
) -> None:
    server.answers.append(HANG)
    call = asyncio.create_task(engine_client.send(server.url, CHAT, {}, b"{}"))
    await asyncio.wait_for(server.arrived.wait(), 5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(server.hung_up.wait(), 5)


async def test_the_callers_own_timeout_is_not_ours(server: ScriptedServer, engine_client: EngineClient) -> None:
    server.answers.append(HANG)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await engine_client.send(server.url, CHAT, {}, b"{}")


@pytest.mark.parametrize(
    "head", ["HTTP/1.1 200 OK\r\nContent-Length: 300", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n12c"]
)
async def test_too_large(
    server: ScriptedServer, engine_client: EngineClient, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    monkeypatch.setattr(client, "ANSWER_SIZE_MAX_BYTES", 100)
    separator = "\r\n" if "chunked" in head else "\r\n\r\n"
    server.answers.append((head + separator).encode() + b"x" * 300)
    reply = await engine_client.send(server.url, CHAT, {}, b"{}")
    assert isinstance(reply, Lost)
    assert reply.reason is LostReason.BAD_ANSWER


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_compressed_answer_is_no_larger_than_others(
    server: ScriptedServer, engine_client: EngineClient, monkeypatch: pytest.MonkeyPatch, is_chunked: bool
) -> None:
    size = 4 * 1024 * 1024
    monkeypatch.setattr(client, "ANSWER_SIZE_MAX_BYTES", size)
    bomb = gzip.compress(b'{"choices":[{"message":{}}],"a":"' + b"x" * 8 * size + b'"}', compresslevel=1)
    assert len(bomb) < size
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    if is_chunked:
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(bomb)
    server.answers.append(head + bomb)
    tracemalloc.start()
    reply = await engine_client.send(server.url, CHAT, {}, b"{}")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(reply, Lost)
    assert reply.message == f"The engine's answer is larger than {size} bytes."
    # A growing buffer is copied to a place where there is more room.
    assert peak_bytes < 3 * size


async def test_a_compressed_answer_is_an_answer(server: ScriptedServer, engine_client: EngineClient) -> None:
    server.answer(200, gzip.compress(ANSWER), Content_Encoding="gzip")
    assert await engine_client.send(server.url, CHAT, {}, b"{}") == Answered(200, ANSWER, Usage(3, 2, 1))


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
async def test_what_cannot_be_inflated_is_lost(
    server: ScriptedServer, engine_client: EngineClient, encoding: str
) -> None:
    server.answer(200, ANSWER, Content_Encoding=encoding)
    reply = await engine_client.send(server.url, CHAT, {}, b"{}")
    assert isinstance(reply, Lost)
    assert reply.reason is LostReason.BAD_ANSWER
    assert "compressed" in reply.message


async def test_a_probe_reads_less(server: ScriptedServer, engine_client: EngineClient) -> None:
    server.answer(200, b"x" * 5_000_000)
    with pytest.raises(EngineUnavailable, match="larger than 4194304 bytes"):
        await engine_client.get(server.url, {}, 5)


async def test_heads_are_bounded(server: ScriptedServer, engine_client: EngineClient) -> None:
    endless = "".join(f"X-{number}: {'x' * 1000}\r\n" for number in range(5000))
    for more in (endless, f"X-Long: {'x' * 1_000_000}\r\n"):
        server.answers.append(f"HTTP/1.1 200 OK\r\nConnection: close\r\n{more}\r\n".encode())
        reply = await engine_client.send(server.url, CHAT, {}, b"{}")
        assert isinstance(reply, Lost)
        assert reply.reason is LostReason.BAD_ANSWER
        assert len(reply.message) < 200


async def test_cookies_are_not_kept(server: ScriptedServer, engine_client: EngineClient) -> None:
    for _ in range(2):
        server.answer(200, ANSWER, Set_Cookie="track=me; Path=/")
        assert isinstance(await engine_client.send(server.url, CHAT, {}, b"{}"), Answered)
    assert b"cookie" not in server.requests[1][0].lower()


async def test_redirects_are_not_followed(server: ScriptedServer, engine_client: EngineClient) -> None:
    server.answer(307, Location=f"{server.url}/elsewhere")
    reply = await engine_client.send(server.url, CHAT, {}, b"{}")
    assert isinstance(reply, Lost)
    assert reply.never_sent
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [200, 400, 401, 500])
async def test_the_key_is_never_repeated(server: ScriptedServer, engine_client: EngineClient, status: int) -> None:
    server.answer(status, b'{"error":{"message":"Incorrect key: sk-secret"}}')
    reply = await engine_client.send(server.url, CHAT, {"Authorization": "Bearer sk-secret"}, b"{}")
    assert isinstance(reply, (Lost, Refused))
    assert "sk-secret" not in repr(reply)


async def test_a_closed_client_opens_again(server: ScriptedServer) -> None:
    once = EngineClient(request_timeout_s=5)
    for _ in range(2):
        server.answer(200, ANSWER)
        assert isinstance(await once.send(server.url, CHAT, {}, b"{}"), Answered)
        await once.close()
        await once.close()
