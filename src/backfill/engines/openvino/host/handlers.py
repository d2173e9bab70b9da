"""The HTTP side of the OpenVINO host: a request is parsed, computed and answered."""

import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Final, Literal

import msgspec
from aiohttp import web

from backfill.engines import host_server
from backfill.engines.host_refusal import Refusal
from backfill.engines.host_server import JSON
from backfill.engines.openvino.host.answers import (
    DONE,
    AnswerHead,
    ChoiceText,
    TokenLogProb,
    Usage,
    render_answer,
    render_chunk,
)
from backfill.engines.openvino.host.model import Model
from backfill.engines.openvino.host.pipeline import Call, Choice, EngineFailed, Scheduler
from backfill.engines.openvino.host.requests import Generation, fit_answer, parse_chat, parse_completion
from backfill.engines.openvino.host.text import TextStream, cut_at_stop
from backfill.engines.openvino.messages import LIVE_HEADER

__all__ = ["make_app"]

_BODY_SIZE_MAX_BYTES: Final = 64 * 1024 * 1024
_EVENTS: Final = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
_SCHEDULER: Final = web.AppKey("scheduler", Scheduler)


def make_app(model: Model, scheduler: Scheduler, alias: str, key: str) -> web.Application:
    """The routes; all but /health want `key`. `alias` is what answers call the model where the request names none."""
    app = host_server.make_app(key, body_size_max_bytes=_BODY_SIZE_MAX_BYTES, failures=EngineFailed, explain=str)
    app[_SCHEDULER] = scheduler
    desk = _Desk(model, scheduler, alias)
    app.router.add_post("/v1/chat/completions", desk.chat)
    app.router.add_post("/v1/completions", desk.complete)
    app.router.add_get("/v1/models", desk.list_models)
    app.router.add_get("/metrics", _show_metrics)
    return app


async def _show_metrics(request: web.Request) -> web.Response:
    scheduler = request.app[_SCHEDULER]
    rows = [
        ("gauge", "requests_running", "Choices being computed.", scheduler.running),
        ("gauge", "requests_waiting", "Choices that wait for admission.", scheduler.waiting),
        ("gauge", "kv_cache_usage_ratio", "Share of the KV cache in use, 0 to 1.", scheduler.kv_cache_usage),
        ("counter", "prompt_tokens_total", "Prompt tokens of admitted choices.", scheduler.prompt_tokens),
        ("counter", "completion_tokens_total", "Tokens computed.", scheduler.completion_tokens),
    ]
    lines = [
        f"# HELP openvino:{name} {text}\n# TYPE openvino:{name} {kind}\nopenvino:{name} {value}\n"
        for kind, name, text, value in rows
    ]
    return web.Response(text="".join(lines))


class _Desk:
    """Takes requests in and gives answers out."""

    def __init__(self, model: Model, scheduler: Scheduler, alias: str) -> None:
        self._model = model
        self._scheduler = scheduler
        self._alias = alias
        self._started_s = int(time.time())

    async def list_models(self, _request: web.Request) -> web.Response:
        """GET /v1/models."""
        entry = {"id": self._alias, "object": "model", "created": self._started_s, "owned_by": "backfill"}
        entry["max_model_len"] = self._model.context_tokens
        return web.Response(headers=JSON, body=msgspec.json.encode({"object": "list", "data": [entry]}))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        generation = parse_chat(await request.read())
        head = self._make_head("chat", generation)
        return await self._answer(request, generation, head)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/completions."""
        generation = parse_completion(await request.read())
        head = self._make_head("completion", generation)
        return await self._answer(request, generation, head)

    def _make_head(self, kind: Literal["chat", "completion"], generation: Generation) -> AnswerHead:
        prefix = "chatcmpl" if kind == "chat" else "cmpl"
        return AnswerHead(kind, f"{prefix}-{uuid.uuid4().hex}", int(time.time()), generation.model or self._alias)

    async def _answer(self, request: web.Request, generation: Generation, head: AnswerHead) -> web.StreamResponse:
        call = self._make_call(generation, is_live=LIVE_HEADER in request.headers)
        response = web.StreamResponse(headers=_EVENTS if generation.stream else JSON)
        self._scheduler.submit(call)
        try:
            await call.wait_begin()
            # The status goes out with the first token, so that the other side knows the prompt is computed.
            await response.prepare(request)
            if generation.stream:
                async for chunk in self._make_chunks(call, generation, head):
                    await response.write(chunk)
                await response.write_eof(DONE)
            else:
                await call.wait_end()
                await response.write_eof(self._make_answer(call, generation, head))
        except (Refusal, EngineFailed):
            if response.prepared and request.transport is not None:
                # The status is out: only an answer that breaks off can still tell.
                request.transport.abort()
                return response
            raise
        finally:
            self._scheduler.cancel(call)
        return response

    def _make_call(self, generation: Generation, *, is_live: bool) -> Call:
        call = Call(is_live=is_live)
        for source in generation.prompts:
            prompt = self._model.encode(source)
            answer_tokens = fit_answer(generation, prompt.tokens, self._model.context_tokens)
            for choice in range(generation.n):
                call.add(prompt, self._model.make_config(generation, answer_tokens, choice))
        return call

    def _make_answer(self, call: Call, generation: Generation, head: AnswerHead) -> bytes:
        choices = [self._make_choice(i, choice, generation) for i, choice in enumerate(call.choices)]
        return render_answer(head, choices, _count(call, generation))

    def _make_choice(self, index: int, choice: Choice, generation: Generation) -> ChoiceText:
        whole = self._model.decode(choice.token_ids)
        text = cut_at_stop(whole, generation.sampling.stop)
        log_probs = None
        if generation.log_probs:
            log_probs = self._pair(choice, 0)
            if len(text) < len(whole):
                log_probs = _cut_log_probs(log_probs, len(text.encode()))
        return ChoiceText(index, text, choice.finish_reason, log_probs)

    def _pair(self, choice: Choice, start: int) -> list[TokenLogProb]:
        """Tokens from `start` on with their logprobs, without the one that ended the answer."""
        tokens = choice.token_ids
        end = len(tokens) - (choice.finish_reason == "stop" and self._model.is_end(tokens[-1]))
        return [TokenLogProb(self._model.get_token(tokens[i]), choice.log_probs[i]) for i in range(start, end)]

    async def _make_chunks(self, call: Call, generation: Generation, head: AnswerHead) -> AsyncIterator[bytes]:
        stop = generation.sampling.stop
        pieces = [
            _Pieces(i, choice, TextStream(self._model.decode, stop), self._pair if generation.log_probs else None)
            for i, choice in enumerate(call.choices)
        ]
        while True:
            await call.wait_progress()
            for piece in pieces:
                if (text := piece.take()) is not None:
                    yield render_chunk(head, [text], with_usage=generation.include_usage)
            if call.ended:
                break
        if generation.include_usage:
            yield render_chunk(head, [], _count(call, generation), with_usage=True)


class _Pieces:
    """A choice as a stream gives it out."""

    def __init__(
        self,
        index: int,
        choice: Choice,
        text: TextStream,
        pair: Callable[[Choice, int], list[TokenLogProb]] | None,
    ) -> None:
        self._index = index
        self._choice = choice
        self._text = text
        self._pair = pair
        self._taken = 0
        self._log_probs_taken = 0
        self._is_first = True
        self._closed = False

    def take(self) -> ChoiceText | None:
        """What is new and certain; None if nothing is."""
        choice = self._choice
        new = choice.token_ids[self._taken :]
        if self._closed or not new:
            return None
        self._taken += len(new)
        text = self._text.add(new)
        self._closed = choice.finish_reason is not None
        if self._closed:
            text += self._text.close()
        if not text and not self._closed and not self._is_first:
            return None
        log_probs = None
        if self._pair is not None:
            log_probs = self._pair(choice, self._log_probs_taken)
            self._log_probs_taken += len(log_probs)
        piece = ChoiceText(self._index, text, choice.finish_reason, log_probs, is_first=self._is_first)
        self._is_first = False
        return piece


def _cut_log_probs(log_probs: list[TokenLogProb], size_bytes: int) -> list[TokenLogProb]:
    """Those of the tokens that begin within the text's first bytes."""
    kept, position = [], 0
    for item in log_probs:
        if position >= size_bytes:
            break
        kept.append(item)
        position += len(item.token)
    return kept


def _count(call: Call, generation: Generation) -> Usage:
    """A prompt counts once, however many choices it has."""
    prompts = call.choices[:: generation.n]
    return Usage(sum(c.prompt.tokens for c in prompts), sum(len(c.token_ids) for c in call.choices))
