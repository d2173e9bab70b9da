"""Clips through a batch on the built-in speech engine, against the same heard without Backfill; and one long clip.

Both sides have the same model, the same machine and the same clips, one after the other, never at once. The best direct
loop is the fastest of all splits of the cores into workers and threads. Words are counted on both sides: what is quick
because it leaves something out shows there.
"""

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

from backfill.config import DEFAULT_SPEECH_MODEL, Config
from backfill.engines.models.catalogue import ensure_model
from bench.child import run_child
from bench.findings import Findings, Setting, tell
from bench.media.spoken_clips import SpokenClip, count_found, make_clips, make_long_clip
from bench.process_usage import read_peak_mb
from bench.server_process import BackfillServer
from bench.whole_path import upload

__all__ = ["measure_hearing", "measure_long_clip"]

_CLIPS, _CLIPS_LEAST = 100, 3
_LENGTHS_S = (5.0, 30.0)
_LONG_S, _LONG_LEAST_S = 3600.0, 60.0
_SHORT_CLIPS = 20
_LINES = 50_000
"""Of a measurement that is not made smaller."""
_ENDPOINT = "/v1/audio/transcriptions"
_ENGINE = "speech"
_TIMEOUT_S = 3600.0
_POLL_S = 0.05
_LIMITS = {"limits__file_size_bytes": str(2**31)}


def measure_hearing(setting: Setting, findings: Findings) -> None:
    """`clips_over_best_direct` and `clips_over_plain_script`, each a ratio of clips a second."""
    folder = setting.make_folder()
    clips = make_clips(folder, max(_CLIPS_LEAST, _CLIPS * setting.lines // _LINES), _LENGTHS_S)
    model_dir = ensure_model(DEFAULT_SPEECH_MODEL, Config().models_dir)
    splits = _list_splits(len(os.sched_getaffinity(0)))
    best = ""
    with _open_server(setting) as server:
        # The process is up and the model loaded, as on the other side.
        _run(server, setting, clips[:1])
        for _ in range(setting.count_repeats(1)):
            seconds, texts, _ = _run(server, setting, clips)
            _count(findings, "clips_words_share", clips, texts)
            direct = {how: _hear_directly(model_dir, how, clips) for how in (*splits, "PLAIN")}
            best = min(splits, key=lambda how: direct[how][0])
            _count(findings, "direct_words_share", clips, direct[best][1])
            tell(
                f"clips: {seconds:.1f} s through a batch, "
                + ", ".join(f"{how} {s:.1f} s" for how, (s, _) in direct.items())
            )
            findings.add(
                clips_s=seconds,
                clips_over_best_direct=direct[best][0] / seconds,
                clips_over_plain_script=direct["PLAIN"][0] / seconds,
            )
    findings.facts |= {"clips": len(clips), "clips_length_s": round(sum(clip.length_s for clip in clips), 1)}
    findings.facts |= {"clips_best_direct": best}


def measure_long_clip(setting: Setting, findings: Findings) -> None:
    """`long_audio_words_share`: found in the long clip ÷ found in short ones; `long_audio_peak_mb`: of the child."""
    folder = setting.make_folder()
    long = make_long_clip(folder, max(_LONG_LEAST_S, min(1.0, setting.lines / _LINES) * _LONG_S))
    short = make_clips(folder, max(_CLIPS_LEAST, _SHORT_CLIPS * setting.lines // _LINES), _LENGTHS_S)
    with _open_server(setting) as server:
        _, texts, _ = _run(server, setting, short)
    found_short = [count_found(clip.text, text) for clip, text in zip(short, texts, strict=True)]
    with _open_server(setting) as server:
        seconds, (text,), peak_mb = _run(server, setting, [long])
    found, said = count_found(long.text, text)
    share_short = sum(found for found, _ in found_short) / sum(said for _, said in found_short)
    tell(
        f"long clip: {long.length_s:.0f} s heard in {seconds:.0f} s, {found} of {said} words, at most {peak_mb:.0f} MB"
    )
    findings.add(long_audio_words_share=found / said / share_short, long_audio_peak_mb=peak_mb, long_audio_s=seconds)
    findings.facts |= {"long_audio_length_s": round(long.length_s), "short_clips_words_share": round(share_short, 4)}


def _list_splits(cores: int) -> list[str]:
    """Workers x threads, as far as they fill the cores."""
    return [f"{workers}x{cores // workers}" for workers in range(1, cores + 1) if cores % workers == 0]


def _open_server(setting: Setting) -> BackfillServer:
    return BackfillServer(setting.make_folder() / "data", {_ENGINE: {"kind": "speech"}}, _LIMITS)


def _run(server: BackfillServer, setting: Setting, clips: list[SpokenClip]) -> tuple[float, list[str], float]:
    """Seconds from the creation of the batch to its end, what was heard, and the child's peak of memory in MB."""
    path = _write_lines(setting.make_folder() / "input.jsonl", clips)
    file_id, _ = upload(server, "multipart", path)
    started = time.perf_counter()
    batch = server.wait_for_end(server.create_batch(file_id, _ENDPOINT), _TIMEOUT_S, _POLL_S)
    seconds = time.perf_counter() - started
    lines = [json.loads(line) for line in server.download(batch["output_file_id"]).splitlines()]
    heard: dict[str, str] = {line["custom_id"]: line["response"]["body"]["text"] for line in lines}
    return seconds, [heard.get(clip.path.name, "") for clip in clips], _read_peak_mb(server)


def _write_lines(path: Path, clips: list[SpokenClip]) -> Path:
    with path.open("w") as file:
        for clip in clips:
            url = f"data:audio/ogg;base64,{base64.b64encode(clip.path.read_bytes()).decode()}"
            body = {"model": "openai/whisper-large-v3", "language": "en", "file": url}
            file.write(json.dumps({"custom_id": clip.path.name, "method": "FILE", "body": body}) + "\n")
    return path


def _hear_directly(model_dir: Path, how: str, clips: list[SpokenClip]) -> tuple[float, list[str]]:
    files = [clip.path for clip in clips]
    answer: dict[str, Any] = run_child("media.direct_hearing", model_dir, how, *files, timeout_s=_TIMEOUT_S)
    return answer["seconds"], answer["texts"]


def _count(findings: Findings, name: str, clips: list[SpokenClip], texts: list[str]) -> None:
    counts = [count_found(clip.text, text) for clip, text in zip(clips, texts, strict=True)]
    findings.add(**{name: sum(found for found, _ in counts) / sum(said for _, said in counts)})


def _read_peak_mb(server: BackfillServer) -> float:
    """Of the engine: the server's only child."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return max(read_peak_mb(int(pid)) for pid in children)
