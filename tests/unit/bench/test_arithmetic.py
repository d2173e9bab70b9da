"""The harness's own sums: a broken promise must not pass, and no figure may say what was not measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from aiohttp import ClientSession
from yarl import URL

from backfill.engines import EngineClient, client
from bench.bare_loop import _KEEP_ALIVE_S, _open_plain_session
from bench.exactness import Redone, count_redone, find_violations, read_custom_ids
from bench.findings import Findings
from bench.input_file import LINE_BYTES, make_body, make_custom_id, make_line, make_marker, write_input_file
from bench.null.engine import _MARKER
from bench.process_usage import read_cpu_s, read_peak_mb, read_resident_mb, reset_peak
from bench.report import KEYS, divide, make_report, summarize
from bench.scale.journal_watch import JournalWatch
from bench.scale.storm import judge_jobs
from bench.scale.storm_clients import Job

EXPECTED = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("output", "error"),
    [(EXPECTED, []), ([], EXPECTED), (["a", "c"], ["b", "d"]), (["b", "c", "d"], ["a"])],
)
def test_each_line_once_and_in_order_is_right(output: list[str], error: list[str]) -> None:
    assert find_violations(EXPECTED, output, error) == []


@pytest.mark.parametrize(
    ("output", "error", "told"),
    [
        (["a", "b", "d"], [], "1 ids are missing from both files, such as c"),
        ([], [], "4 ids are missing from both files, such as a, b, c"),
        (["a", "b", "b", "c", "d"], [], "1 ids are there more than once, such as b"),
        (EXPECTED, ["c"], "1 ids are there more than once, such as c"),
        (["a", "b", "c", "d", "x"], [], "1 ids are in no line of the input, such as x"),
        (["a", "c", "b", "d"], [], "1 ids are out of input order in the output file, such as b"),
        (["c"], ["d", "a", "b"], "1 ids are out of input order in the error file, such as a"),
    ],
)
def test_each_broken_promise_is_told(output: list[str], error: list[str], told: str) -> None:
    assert find_violations(EXPECTED, output, error) == [told]


def test_several_broken_promises_are_all_told() -> None:
    assert len(find_violations(EXPECTED, ["d", "d", "a", "x"], [])) == 4


def test_custom_ids_are_read_in_the_order_of_the_lines() -> None:
    content = b'{"id":"1","custom_id":"b","response":{"custom_id":"x"}}\n{"custom_id":"a \\u2028","error":{}}\n'
    assert read_custom_ids(content) == ["b", "a \u2028"]
    assert read_custom_ids(b"") == []


@pytest.mark.parametrize(
    ("before", "after", "finished", "redone"),
    [
        (["1", "2"], ["3", "4"], {"1", "2"}, Redone(0, 0)),
        (["1", "2", "3"], ["3", "4"], {"1", "2"}, Redone(0, 1)),
        (["1", "2", "3"], ["2", "3", "4"], {"1", "2"}, Redone(1, 2)),
        (["1", "1"], ["2"], {"1"}, Redone(0, 1)),
        (["1"], ["1", "1", "1"], {"1"}, Redone(1, 1)),
        # A record of a line that the engine's log does not have before the kill counts as well.
        ([], ["1"], {"1"}, Redone(1, 0)),
    ],
)
def test_what_is_run_again_is_counted(before: list[str], after: list[str], finished: set[str], redone: Redone) -> None:
    assert count_redone(before, after, finished) == redone


@pytest.mark.parametrize("line", [0, 7, 49_999, 123_456])
def test_input_lines_are_what_they_say(line: int) -> None:
    content = make_line(line)
    decoded = json.loads(content)
    assert len(content) == LINE_BYTES
    assert decoded["custom_id"] == make_custom_id(line)
    assert decoded["body"] == json.loads(make_body(line))
    found = _MARKER.search(make_body(line))
    assert found is not None
    assert found[1].decode() == make_marker(line)


def test_the_input_file_has_every_line(tmp_path: Path) -> None:
    content = write_input_file(tmp_path / "input.jsonl", 12).read_bytes()
    assert content == b"".join(make_line(line) for line in range(12))


def test_figures_are_medians_with_their_spread() -> None:
    assert summarize([3.0, 1.0, 2.0]) == (2.0, [1.0, 3.0])
    assert summarize([0.123456]) == (0.123456, [0.1235, 0.1235])


def test_ratios_are_of_neighbours() -> None:
    # The machine was twice as slow in the second run: the ratio of medians would be 0.75.
    assert divide([100.0, 50.0, 50.0], [200.0, 100.0, 50.0]) == [0.5, 0.5, 1.0]
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        divide([1.0, 2.0], [1.0])


def test_a_report_begins_with_the_agreed_keys_and_knows_what_was_not_measured() -> None:
    timings = {"null_engine_rps": [50.0, 60.0, 70.0], "bare_loop_rps": [100.0, 100.0, 200.0]}
    report = make_report(timings, {"lines": 10}, ["something"])
    assert tuple(report)[: len(KEYS)] == KEYS
    assert report["null_engine_rps"] == 60.0
    assert report["null_engine_over_bare"] == 0.5
    assert report["lines"] == 10
    assert report["recover_s"] is None
    assert "upload_over_floor" not in report
    assert report["violations"] == ["something"]
    assert report["spread"] == {
        "null_engine_rps": [50.0, 70.0],
        "bare_loop_rps": [100.0, 200.0],
        "null_engine_over_bare": [0.35, 0.6],
    }


_BLOCK = """
import sys
for line in sys.stdin:
    block = b"x" * int(line)
    print(len(block), flush=True)
"""


def test_memory_and_processor_time_of_a_process_are_read() -> None:
    # Of a process that does nothing else: in this one memory comes and goes with all that ran before.
    with subprocess.Popen(
        [sys.executable, "-c", _BLOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        asked, told = process.stdin, process.stdout
        assert asked is not None
        assert told is not None

        def hold(size_bytes: int) -> None:
            print(size_bytes, file=asked, flush=True)
            assert int(told.readline()) == size_bytes

        hold(1)
        assert 0 < read_resident_mb(process.pid) <= read_peak_mb(process.pid)
        assert read_cpu_s(os.getpid()) > 0
        before_mb = read_peak_mb(process.pid)
        hold(50_000_000)
        high_mb = read_peak_mb(process.pid)
        assert high_mb > before_mb + 40
        hold(1)
        # Of what is given back the peak stays, but for what the kernel has not added up yet.
        assert read_peak_mb(process.pid) > before_mb + 40
        if reset_peak(process.pid):
            assert read_peak_mb(process.pid) < high_mb - 40


async def test_the_plain_session_is_set_up_as_our_client_is() -> None:
    assert client._KEEP_ALIVE_S == _KEEP_ALIVE_S
    async with EngineClient(1.0) as ours, _open_plain_session(URL("http://127.0.0.1:9")) as send:
        session = ours._open()
        plain = next(
            cell.cell_contents for cell in send.__closure__ or () if isinstance(cell.cell_contents, ClientSession)
        )
        assert plain.headers == session.headers
        assert plain.timeout == session.timeout
        assert type(plain.cookie_jar) is type(session.cookie_jar)


def test_reports_are_json() -> None:
    assert msgspec.json.decode(json.dumps(make_report({}, {}, []))).keys() >= set(KEYS)


def test_a_request_that_comes_after_its_record_was_seen_is_found(tmp_path: Path) -> None:
    watch = JournalWatch(tmp_path, {})
    watch.seen_ns = {1: 100, 2: 100}
    received = [
        ("received", make_marker(line), at_ns) for line, at_ns in ((1, 90), (2, 90), (3, 90), (2, 110), (3, 110))
    ]
    assert watch.find_redone([*received, ("answered", make_marker(1), 110)]) == {2}


THREE = [make_custom_id(line) for line in (7, 8, 9)]


def make_job(**outcome: list[str]) -> Job:
    return Job(**({"first": 7, "lines": 3, "follows": True, "output": THREE, "followed": THREE} | outcome))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("job", "lost", "doubled"),
    [
        (make_job(followed=THREE[::-1]), 0, 0),
        (make_job(output=THREE[:2]), 1, 0),
        (make_job(followed=THREE[1:]), 1, 0),
        (make_job(output=THREE[:2], errors=THREE[2:]), 1, 0),
        (make_job(output=[*THREE, THREE[0]]), 0, 1),
        (make_job(errors=THREE[:1]), 1, 1),
        (make_job(followed=[*THREE, *THREE[1:]]), 0, 2),
    ],
)
def test_what_a_storm_breaks_is_counted(job: Job, lost: int, doubled: int) -> None:
    findings = Findings()
    judge_jobs(findings, [job])
    assert findings.timings == {"storm_lost": [lost], "storm_doubled": [doubled]}
    assert bool(findings.violations) == bool(lost or doubled)
