"""What is traced, and how: a span for each request to the server, one for some of those to engines, four for a batch.

Nothing of a request's content, of keys or of queries (which may hold a signature) is in a span. The provider is ours
and not the process's own, so that no other library tells more through it.
"""

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backfill import __version__
from backfill.batch import Batch, State
from backfill.engines import Answered, Lost, OnFirstToken, Replica, Reply
from backfill.media_file import MediaFile

__all__ = ["Tracing", "make_exporter"]

_SERVICE = "backfill"
_Send = Callable[[str, bytes, OnFirstToken | None, MediaFile | None], Awaitable[Reply]]


class _Stretch(NamedTuple):
    """A part of a batch's life, between two times of its row."""

    name: str
    begins: str
    ends: str


_STRETCHES = (
    _Stretch("batch.validate", "created_at_ms", "started_at_ms"),
    _Stretch("batch.run", "started_at_ms", "closing_at_ms"),
    _Stretch("batch.deliver", "closing_at_ms", "ended_at_ms"),
)


def make_exporter(endpoint: str) -> SpanExporter:
    """Sends spans by OTLP over HTTP; without an endpoint to where OpenTelemetry's variables say."""
    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None)


class Tracing:
    """Makes spans and hands them to an exporter, which sends them from a thread of its own."""

    def __init__(self, exporter: SpanExporter, engine_requests: float) -> None:
        """`engine_requests`: which part of the requests to engines has a span, from 0 to 1."""
        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": _SERVICE}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(_SERVICE, __version__)
        self._engine_requests = engine_requests

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """The same application, each request to which has a span, in the trace that the client names if it does."""
        return _TracedApp(app, self._tracer)

    def watch(self, replica: Replica) -> None:
        """Have some of the requests to an engine leave a span."""
        send: _Send = replica.send
        replica.send = partial(self._send, replica.name, send)  # type: ignore[method-assign]

    def tell(self, batch: Batch) -> None:
        """The life of a batch that has ended, as its row has it: also what passed before this process began."""
        if batch.ended_at_ms is None:
            return
        attributes = {
            "backfill.batch.id": batch.id,
            "backfill.batch.owner": batch.owner,
            "backfill.batch.endpoint": batch.endpoint,
            "backfill.batch.state": batch.state.value,
            "backfill.batch.lines": batch.counts.total,
            "backfill.batch.answered": batch.counts.answered,
            "backfill.batch.failed": batch.counts.failed,
        }
        # A trace of its own, whatever happens to be going on.
        whole = self._tracer.start_span(
            "batch", Context(), attributes=attributes, start_time=_to_ns(batch.created_at_ms)
        )
        inside = trace.set_span_in_context(whole, Context())
        for stretch in _STRETCHES:
            begins_ms, ends_ms = getattr(batch, stretch.begins), getattr(batch, stretch.ends)
            if begins_ms is not None and ends_ms is not None:
                span = self._tracer.start_span(stretch.name, inside, start_time=_to_ns(begins_ms))
                span.end(_to_ns(ends_ms))
        if batch.state is State.FAILED:
            whole.set_status(StatusCode.ERROR)
        whole.end(_to_ns(batch.ended_at_ms))

    def close(self) -> None:
        """Send what is left. Blocks until the collector has it, or for as long as the exporter is patient."""
        self._provider.shutdown()

    async def _send(
        self,
        name: str,
        send: _Send,
        endpoint: str,
        body: bytes,
        on_first_token: OnFirstToken | None = None,
        attachment: MediaFile | None = None,
    ) -> Reply:
        if random.random() >= self._engine_requests:  # noqa: S311 - which of many is shown, not a secret
            return await send(endpoint, body, on_first_token, attachment)
        attributes: dict[str, str | int] = {
            "backfill.replica": name,
            "url.path": endpoint,
            "backfill.request.size_bytes": len(body) + (0 if attachment is None else attachment.size_bytes),
        }
        with self._tracer.start_as_current_span(
            f"engine {endpoint}", Context(), SpanKind.CLIENT, attributes, record_exception=False
        ) as span:

            def note_first_token() -> None:
                span.add_event("first token")
                if on_first_token is not None:
                    on_first_token()

            reply = await send(endpoint, body, on_first_token and note_first_token, attachment)
            if isinstance(reply, Lost):
                span.set_attribute("error.type", reply.reason.value)
                span.set_status(StatusCode.ERROR)
            if reply.status is not None:
                span.set_attribute("http.response.status_code", reply.status)
            if isinstance(reply, Answered):
                span.set_attribute("gen_ai.usage.input_tokens", reply.usage.prompt_tokens)
                span.set_attribute("gen_ai.usage.output_tokens", reply.usage.completion_tokens)
            return reply


class _TracedApp:
    """The innermost layer: it knows which route a request has taken."""

    def __init__(self, app: ASGIApp, tracer: trace.Tracer) -> None:
        self._app = app
        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        with self._tracer.start_as_current_span(
            method, self._find_parent(scope), SpanKind.SERVER, {"http.request.method": method}, record_exception=False
        ) as span:

            async def send_noting(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            span.set_attribute("backfill.request_id", scope.get("backfill.request_id", ""))
            try:
                await self._app(scope, receive, send_noting)
            finally:
                # By its route, so that ids do not make as many names.
                if (route := getattr(scope.get("route"), "path", None)) is not None:
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)

    def _find_parent(self, scope: Scope) -> Context:
        wanted = {b"traceparent", b"tracestate"}
        carrier = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in wanted}
        return self._propagator.extract(carrier, Context())


def _to_ns(time_ms: int) -> int:
    return time_ms * 1_000_000
