"""`backfill check` as a process: pipes and exit codes."""

import os
import subprocess
import sys
from pathlib import Path

from tests.acceptance.command_line import backfill
from tests.support.lines import request_line


def test_standard_input_is_read(tmp_path: Path) -> None:
    lines = b"\n".join([request_line(0), b"{", b"", request_line(0)]) + b"\n"
    code, out, err = backfill("check", "-", folder=tmp_path, stdin=lines, fresh=True)
    assert (code, err) == (2, "")
    named = out.splitlines()
    assert named[0].startswith("<stdin>:2: The line is not valid JSON")
    assert named[1].startswith('<stdin>:4: custom_id "request-0" is used by line 1 already.')
    assert named[-1] == "2 problems of the file: a batch of it fails"


def test_nobody_reads_and_nobody_complains(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"{\n")
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "backfill", "check", "in.jsonl"]
        ended = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")
