"""Runs a Python command line for a test, again and again: its libraries are loaded once, and each run is forked.

Argument: the name of the program. Each line on stdin is one run as JSON, each line on stdout what came of it:

    {"arguments": ["files", "list"], "environment": {"TOGETHER_API_KEY": "..."}}
    {"code": 0, "out": "...", "err": ""}

It needs nothing but the library, and runs on the Python and the dependencies that the library's version asks for.
"""

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, BinaryIO


def run(program: Callable[[], Any], request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            be_child(program, request, out, err)
        _, status = os.waitpid(child, 0)
        return {"code": os.waitstatus_to_exitcode(status), "out": read(out), "err": read(err)}


def be_child(program: Callable[[], Any], request: dict[str, Any], out: BinaryIO, err: BinaryIO) -> None:
    """As a new process would, run the program; never returns."""
    code = 1
    try:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv[1:] = request["arguments"]
        sys.exit(program())
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - what ends a program says so on stderr
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def read(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()


def main() -> None:
    (found,) = entry_points(group="console_scripts", name=sys.argv[1])
    program = found.load()
    sys.argv[0] = sys.argv.pop(1)
    for line in sys.stdin:
        print(json.dumps(run(program, json.loads(line))), flush=True)  # noqa: T201


main()
