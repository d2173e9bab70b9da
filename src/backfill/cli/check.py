"""`backfill check`: every line of a file that could not be run, and why."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from backfill.batch import BatchProblem
from backfill.cli.console import emit, say, write_out
from backfill.cli.failures import UNUSABLE, end_on_error
from backfill.cli.options import AsJson, ConfigFile, Endpoint
from backfill.config import LimitsConfig, load_config
from backfill.errors import InvalidInput
from backfill.index import Survey
from backfill.intake import LineScanner
from backfill.turns import check_endpoint, judge

__all__ = ["Report", "check", "inspect_file", "name_problem"]

_PIECE_BYTES = 1 << 18
_STDIN = Path("-")


class Report(NamedTuple):
    """What `inspect_file` found. An unusable file has problems, in the order of its lines."""

    survey: Survey
    problems: tuple[BatchProblem, ...]
    size_bytes: int


def check(
    input_path: Annotated[
        Path, typer.Argument(metavar="INPUT.jsonl", help='Requests, one JSON object a line; "-" reads standard input.')
    ],
    endpoint: Endpoint = "/v1/chat/completions",
    model_id: Annotated[str | None, typer.Option(metavar="NAME", help="Model of requests that name none.")] = None,
    config_file: ConfigFile = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Name every line of a file that cannot be run, and why."""
    with end_on_error(as_json=as_json):
        limits = load_config(config_file).limits
        report = inspect_file(input_path, check_endpoint(endpoint), model_id, limits.custom_id_length)
    name = "<stdin>" if input_path == _STDIN else str(input_path)
    if as_json:
        emit(_describe(name, endpoint, report))
    else:
        _print(name, endpoint, report)
    for warning in _find_limits_passed(report, limits):
        say(warning, label="warning", style="yellow")
    if report.problems:
        raise typer.Exit(UNUSABLE)


def inspect_file(path: Path, endpoint: str, model_id: str | None, custom_id_length: int) -> Report:
    """Read a file once and judge each of its lines; raises InvalidInput if it cannot be read."""
    scanner = LineScanner(
        lines_limit=sys.maxsize, custom_id_length=custom_id_length, problems_kept=sys.maxsize, endpoints=[endpoint]
    )
    size_bytes = 0
    for piece in _read_pieces(path):
        size_bytes += len(piece)
        scanner.feed(piece)
    _, survey = scanner.finish()
    problems, _ = judge(survey, endpoint, model_id, problems_shown=sys.maxsize)
    return Report(survey, problems, size_bytes)


def name_problem(name: str, problem: BatchProblem) -> str:
    """A problem in the form of a compiler's message, which editors can jump to."""
    place = f"{name}:{problem.line}" if problem.line else name
    return f"{place}: {problem.message} [{problem.code}]"


def _read_pieces(path: Path) -> Iterator[bytes]:
    try:
        with sys.stdin.buffer if path == _STDIN else path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece
    except OSError as error:
        message = f"The input file {path} cannot be read: {error.strerror}."
        raise InvalidInput(message, param="input") from None


def _describe(name: str, endpoint: str, report: Report) -> dict[str, object]:
    return {
        "file": name,
        "endpoint": endpoint,
        "usable": not report.problems,
        "requests": report.survey.lines,
        "size_bytes": report.size_bytes,
        "token_estimate": report.survey.token_estimate,
        "models": report.survey.models,
        "problem_count": len(report.problems),
        "problems": report.problems,
    }


def _print(name: str, endpoint: str, report: Report) -> None:
    for problem in report.problems:
        write_out(name_problem(name, problem))
    survey = report.survey
    tokens = f"about {survey.token_estimate:,} tokens with the answers"
    write_out(f"{name}: {survey.lines:,} requests for {endpoint}, {tokens}")
    if survey.models:
        write_out(f"models: {', '.join(survey.models)}")
    count = len(report.problems)
    write_out(f"{count:,} problem{'s' if count > 1 else ''}" if count else "every line can be run")


def _find_limits_passed(report: Report, limits: LimitsConfig) -> list[str]:
    """What a server with these settings would refuse; `backfill run` has no such limits."""
    passed = []
    if report.survey.lines > limits.lines:
        passed.append(f"a server takes {limits.lines:,} requests in one batch (limits.lines); `backfill run` takes all")
    if report.size_bytes > limits.file_size_bytes:
        limit = f"{limits.file_size_bytes:,} bytes"
        passed.append(f"a server takes files of {limit} (limits.file_size_bytes); `backfill run` takes any")
    return passed
