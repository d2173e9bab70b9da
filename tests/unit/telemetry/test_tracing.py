"""Traces: what has a span and what is in it, that nothing secret is, and that nobody pays who collects none."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from backfill.app import Rooms
from backfill.batch import State
from backfill.config import TelemetryConfig
from backfill.errors import InvalidConfig
from backfill.telemetry import Tracing, open_tracing, tracing_along
from bench.null.process import NullEngine
from tests.support.lines import marker_of, request_lines
from tests.support.rooms import create_batch, open_house, wait_for_batch
from tests.support.server_process import BackfillServer
from tests.unit.web.serving import serve

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def engine() -> Iterator[NullEngine]:
    with NullEngine() as engine:
        yield engine


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME", "OTEL_TRACES_SAMPLER"):
        monkeypatch.delenv(name, raising=False)


class Traced:
    """Rooms at work with an exporter that keeps what it is given."""

    def __init__(self, rooms: Rooms, tracing: Tracing, exporter: InMemorySpanExporter) -> None:
        self.rooms = rooms
        self._tracing = tracing
        self._exporter = exporter
        app, _ = serve(rooms, trace=tracing.wrap)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://localhost")

    def spans(self, name: str) -> list[ReadableSpan]:
        self._tracing._provider.force_flush()
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


@asynccontextmanager
async def trace(folder: Path, engine: NullEngine, engine_requests: float = 1.0) -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter, engine_requests)
    async with (
        open_house(folder, engine.url) as rooms,
        tracing_along(tracing, rooms.fleet.replicas, rooms.turns, rooms.metadata),
    ):
        traced = Traced(rooms, tracing, exporter)
        yield traced
        await traced.client.aclose()


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_request_has_a_span_by_its_route_in_the_clients_trace(tmp_path: Path, engine: NullEngine) -> None:
    async with trace(tmp_path, engine) as traced:
        headers = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01", "authorization": "Bearer secret-key"}
        response = await traced.client.get("/v1/files/file-1?signature=secret-too", headers=headers)
        (span,) = traced.spans("GET /v1/files/{file_id}")
        assert attributes_of(span) == {
            "http.request.method": "GET",
            "http.route": "/v1/files/{file_id}",
            "http.response.status_code": 404,
            "backfill.request_id": response.headers["x-request-id"],
        }
        assert (span.kind, span.status.status_code) == (SpanKind.SERVER, StatusCode.UNSET)
        assert f"{span.context.trace_id:032x}" == TRACE_ID
        assert "secret" not in span.to_json()
        assert span.resource.attributes["service.name"] == "backfill"
        await traced.client.get("/nothing/of/ours", headers={"traceparent": "no such thing"})
        (span,) = traced.spans("GET")
        assert f"{span.context.trace_id:032x}" != TRACE_ID


async def test_a_batch_is_told_with_the_times_of_its_row(tmp_path: Path, engine: NullEngine) -> None:
    engine.behave(faults={marker_of(1): ["400"]})
    async with trace(tmp_path, engine) as traced:
        batch = await wait_for_batch(traced.rooms, (await create_batch(traced.rooms, request_lines(3))).id)
        async with asyncio.timeout(30):
            while not traced.spans("batch"):
                await asyncio.sleep(0.01)
        (whole,) = traced.spans("batch")
        assert attributes_of(whole)["backfill.batch.id"] == batch.id
        assert attributes_of(whole)["backfill.batch.state"] == "completed"
        assert (attributes_of(whole)["backfill.batch.answered"], attributes_of(whole)["backfill.batch.failed"]) == (
            2,
            1,
        )
        assert batch.ended_at_ms is not None
        assert (whole.start_time, whole.end_time) == (batch.created_at_ms * 10**6, batch.ended_at_ms * 10**6)
        for name in ("batch.validate", "batch.run", "batch.deliver"):
            (part,) = traced.spans(name)
            assert part.parent is not None
            assert part.parent.span_id == whole.context.span_id
        sent = traced.spans("engine /v1/chat/completions")
        assert sorted(attributes_of(span)["http.response.status_code"] for span in sent) == [200, 200, 400]
        answered = next(span for span in sent if attributes_of(span)["http.response.status_code"] == 200)
        assert attributes_of(answered)["backfill.replica"] == "null"
        assert attributes_of(answered)["gen_ai.usage.output_tokens"] > 0


async def test_a_batch_that_was_rejected_is_told_too(tmp_path: Path, engine: NullEngine) -> None:
    async with trace(tmp_path, engine) as traced:
        made = await create_batch(traced.rooms, b'{"no": "request"}\n')
        await wait_for_batch(traced.rooms, made.id, State.FAILED)
        async with asyncio.timeout(30):
            while not traced.spans("batch"):
                await asyncio.sleep(0.01)
        (whole,) = traced.spans("batch")
        assert whole.status.status_code is StatusCode.ERROR
        assert traced.spans("batch.run") == []


async def test_only_a_part_of_the_requests_to_engines_is_shown(tmp_path: Path, engine: NullEngine) -> None:
    async with trace(tmp_path, engine, 0.0) as traced:
        await wait_for_batch(traced.rooms, (await create_batch(traced.rooms, request_lines(3))).id)
        assert traced.spans("engine /v1/chat/completions") == []


def test_traces_are_only_there_where_a_place_for_them_is_named() -> None:
    nowhere, somewhere = TelemetryConfig(), TelemetryConfig(endpoint="http://127.0.0.1:9")
    named = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    assert open_tracing(nowhere, {}) is None
    assert open_tracing(nowhere, named) is not None
    assert open_tracing(somewhere, {}) is not None
    assert open_tracing(somewhere, {"OTEL_SDK_DISABLED": "true"}) is None
    assert open_tracing(nowhere, named | {"OTEL_TRACES_EXPORTER": "none"}) is None


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys  # noqa: PLC0415

    monkeypatch.delitem(sys.modules, "backfill.telemetry.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(InvalidConfig) as refused:
        open_tracing(TelemetryConfig(endpoint="http://127.0.0.1:9"), {})
    assert "backfill[telemetry]" in refused.value.message


class Collector(ThreadingHTTPServer):
    """Takes whatever is sent to it."""

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        super().__init__(("127.0.0.1", 0), CollectorRequest)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class CollectorRequest(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def test_a_server_sends_its_spans_before_it_ends(tmp_path: Path, engine: NullEngine, collector: Collector) -> None:
    with BackfillServer(tmp_path / "data", engine.url, telemetry__endpoint=collector.url) as server:
        assert httpx.get(f"{server.url}/v1/models", trust_env=False).status_code == 200
    assert {path for path, _ in collector.received} == {"/v1/traces"}
    assert any(b"GET /v1/models" in body for _, body in collector.received)


def test_a_collector_that_is_out_keeps_no_server_from_ending(tmp_path: Path, engine: NullEngine) -> None:
    with BackfillServer(tmp_path / "data", engine.url, telemetry__endpoint="http://127.0.0.1:9") as server:
        assert httpx.get(f"{server.url}/v1/models", trust_env=False).status_code == 200
        assert server.terminate() == 0
