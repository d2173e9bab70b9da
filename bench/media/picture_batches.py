"""Batches whose lines name pictures: how often these are fetched, what that costs the engine, and what memory holds."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from bench.findings import BATCH_TIMEOUT_S, Findings, Setting, tell
from bench.input_file import make_custom_id, make_marker
from bench.media.picture_server import PictureServer, make_data_url, make_picture
from bench.null.answers import MODEL
from bench.null.process import NullEngine
from bench.process_usage import read_peak_mb, read_resident_mb, reset_peak
from bench.server_process import BackfillServer, name_null_engine
from bench.whole_path import check_results, upload

__all__ = ["measure_data_urls", "measure_fetches"]

_LINES = 2000
_LINES_A_LINK = 10
_FETCH_MS = 50
# Places of the engine, and how long it takes for an answer: 160 lines a second, so that a batch takes 12 s.
_PLACES = 16
_ANSWER_MS = 100
_REPEATS = 3
_POLL_S = 0.03
_REST_S = 1.0
_DATA_BYTES = 100_000_000
# A picture of 500 x 500 pixels: its line is about a megabyte long.
_DATA_SIDE = 500
_SETTINGS = {"media__allow": '["127.0.0.1/32"]', "media__allow_http": "true"}


def _write_lines(path: Path, count: int, find_url: Callable[[int], str]) -> int:
    """A file of so many requests, each with one picture; gives its size."""
    with path.open("w") as file:
        for line in range(count):
            picture = {"type": "image_url", "image_url": {"url": find_url(line)}}
            text = {"type": "text", "text": f"marker-{make_marker(line)} What is to be seen here?"}
            body = {"model": MODEL, "messages": [{"role": "user", "content": [text, picture]}], "max_tokens": 64}
            file.write(json.dumps({"custom_id": make_custom_id(line), "body": body}) + "\n")
    return path.stat().st_size


def _time_batch(folder: Path, path: Path, lines: int, findings: Findings) -> float:
    """Seconds from the request that creates the batch to the engine's last answer."""
    with (
        NullEngine(delay_ms=_ANSWER_MS) as engine,
        BackfillServer(folder / "data", name_null_engine(engine.url, _PLACES), _SETTINGS) as server,
    ):
        file_id, _ = upload(server, "multipart", path)
        created_at = time.time()
        batch = server.wait_for_end(server.create_batch(file_id), BATCH_TIMEOUT_S, _POLL_S)
        findings.violations += check_results(server, batch, lines)
        return (engine.stats()["last_answered_at"] or float("nan")) - created_at


def measure_fetches(setting: Setting, findings: Findings) -> None:
    """Add `image_fetches` and `image_idle_share`: of the time of a batch, what it lasts longer than one without links.

    Every tenth of the lines names the same picture, and those that do stand as far apart as they can.
    """
    lines = setting.scale(_LINES)
    links = max(1, lines // _LINES_A_LINK)
    for _ in range(setting.count_repeats(_REPEATS)):
        folder = setting.make_folder()
        with PictureServer(_FETCH_MS) as pictures:
            url = pictures.url
            _write_lines(folder / "links.jsonl", lines, lambda line: f"{url}/{line % links}.png")  # noqa: B023 - now
            linked_s = _time_batch(folder / "linked", folder / "links.jsonl", lines, findings)
            fetches = pictures.count_fetches()
        urls = [make_data_url(make_picture(number)) for number in range(links)]
        _write_lines(folder / "data.jsonl", lines, lambda line: urls[line % links])  # noqa: B023 - now
        plain_s = _time_batch(folder / "plain", folder / "data.jsonl", lines, findings)
        findings.add(image_fetches=fetches, image_idle_share=max(0.0, 1 - plain_s / linked_s))
        findings.facts["image_links"] = links
        tell(f"pictures: {fetches} fetches of {links} links, {linked_s:.2f} s with links, {plain_s:.2f} s without")


def measure_data_urls(setting: Setting, findings: Findings) -> None:
    """Add `data_url_peak_mb`: of 100 MB of lines with their pictures in them, over upload and batch."""
    folder = setting.make_folder()
    path = folder / "data.jsonl"
    urls = [make_data_url(make_picture(number, _DATA_SIDE)) for number in range(4)]
    lines = setting.scale(_DATA_BYTES // (len(urls[0]) + 300))
    size_bytes = _write_lines(path, lines, lambda line: urls[line % len(urls)])
    with (
        NullEngine() as engine,
        BackfillServer(folder / "data", name_null_engine(engine.url, _PLACES), _SETTINGS) as server,
    ):
        time.sleep(_REST_S)
        findings.facts["data_url_peak_is_reset"] = reset_peak(server.pid)
        idle_mb = read_resident_mb(server.pid)
        file_id, _ = upload(server, "multipart", path)
        batch = server.wait_for_end(server.create_batch(file_id), BATCH_TIMEOUT_S, _POLL_S)
        peak_mb = read_peak_mb(server.pid)
        findings.violations += check_results(server, batch, lines)
    findings.add(data_url_peak_mb=peak_mb - idle_mb)
    findings.facts["data_url_bytes"] = size_bytes
