"""A transcript in OpenAI's five forms: pure."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from backfill.engines.speech.host.requests import Wanted
from backfill.engines.speech.host.segments import Segment, Transcript

__all__ = ["render_answer"]

_UNKNOWN_LANGUAGE: Final = "und"
_FRAMES_PER_S: Final = 100


def render_answer(transcript: Transcript, wanted: Wanted, model: str) -> tuple[str, bytes]:
    """Media type and body. `model` is the one that ran, whatever the request called it."""
    return _FORMS[wanted.form](transcript, wanted, model)


def _render_json(transcript: Transcript, _wanted: Wanted, model: str) -> tuple[str, bytes]:
    body = {"text": transcript.text, "model": model, "usage": _count(transcript)}
    return "application/json", msgspec.json.encode(body)


def _render_verbose(transcript: Transcript, wanted: Wanted, model: str) -> tuple[str, bytes]:
    body: dict[str, Any] = {
        "task": wanted.order.task,
        "language": transcript.language or _UNKNOWN_LANGUAGE,
        "duration": round(transcript.length_s, 3),
        "text": transcript.text,
        "model": model,
        "usage": _count(transcript),
    }
    if "segment" in wanted.granularities:
        body["segments"] = [_describe(i, segment) for i, segment in enumerate(transcript.segments)]
    if "word" in wanted.granularities:
        words = [word for segment in transcript.segments for word in segment.words]
        body["words"] = [{"word": word.text.strip(), "start": word.start_s, "end": word.end_s} for word in words]
    return "application/json", msgspec.json.encode(body)


def _render_text(transcript: Transcript, _wanted: Wanted, _model: str) -> tuple[str, bytes]:
    return "text/plain", f"{transcript.text}\n".encode()


def _render_srt(transcript: Transcript, _wanted: Wanted, _model: str) -> tuple[str, bytes]:
    cues = [
        f"{i}\n{_stamp(one.start_s, ',')} --> {_stamp(one.end_s, ',')}\n{one.text.strip()}\n\n"
        for i, one in enumerate(transcript.segments, 1)
    ]
    return "text/plain", "".join(cues).encode()


def _render_vtt(transcript: Transcript, _wanted: Wanted, _model: str) -> tuple[str, bytes]:
    cues = [
        f"{_stamp(one.start_s, '.')} --> {_stamp(one.end_s, '.')}\n{one.text.strip()}\n\n"
        for one in transcript.segments
    ]
    return "text/vtt", ("WEBVTT\n\n" + "".join(cues)).encode()


_FORMS: Final[Mapping[str, Callable[[Transcript, Wanted, str], tuple[str, bytes]]]] = {
    "json": _render_json,
    "text": _render_text,
    "srt": _render_srt,
    "vtt": _render_vtt,
    "verbose_json": _render_verbose,
}


def _count(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(transcript.length_s)}


def _describe(number: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": number,
        "seek": int(segment.start_s * _FRAMES_PER_S),
        "start": segment.start_s,
        "end": segment.end_s,
        "text": segment.text,
        "tokens": segment.tokens,
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }


def _stamp(time_s: float, point: str) -> str:
    seconds, ms = divmod(round(time_s * 1000), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{ms:03}"
