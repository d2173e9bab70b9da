"""`backfill check`: what would fail a batch of a file, and which of its requests would not be sent, and why."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from backfill.batch import Dialect, fit_to_endpoint
from backfill.cli.console import emit, say, write_out
from backfill.cli.failures import SOME_FAILED, UNUSABLE, end_on_error
from backfill.cli.media_check import MediaReport, fetch_media, inspect_media_of
from backfill.cli.options import AsJson, ConfigFile, Endpoint, OnInvalidLines, SkipInvalidLines
from backfill.cli.problems import name_problem, name_unreadable
from backfill.config import LimitsConfig, MediaConfig, load_config
from backfill.errors import InvalidInput
from backfill.index import EndpointSurvey, LineIndex, Survey
from backfill.inflation import Unpacker
from backfill.intake import LineScanner
from backfill.turns import Verdict, check_endpoint, judge

__all__ = ["Report", "check", "inspect_file", "scan_file"]

_PIECE_BYTES = 1 << 18
_STDIN = Path("-")
_CUT = "`backfill submit` cuts it into several, `backfill run` takes it whole"


class Report(NamedTuple):
    """What `inspect_file` found, with every problem there is."""

    survey: Survey
    verdict: Verdict
    size_bytes: int
    media: MediaReport = MediaReport()


def check(  # noqa: PLR0913 - an option each
    input_path: Annotated[
        Path, typer.Argument(metavar="INPUT.jsonl", help='Requests, one JSON object a line; "-" reads standard input.')
    ],
    endpoint: Endpoint = "/v1/chat/completions",
    model_id: Annotated[str | None, typer.Option(metavar="NAME", help="Model of requests that name none.")] = None,
    dialect: Annotated[
        Dialect, typer.Option(help="Whose API the file is for; OpenAI's demands method and url in each line.")
    ] = Dialect.TOGETHER,
    on_invalid_lines: SkipInvalidLines = None,
    config_file: ConfigFile = None,
    *,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Fetch the pictures and clips that requests name, to see whether it works.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Name every line of a file that cannot be run, and why."""
    with end_on_error(as_json=as_json):
        config = load_config(config_file)
        limits = config.limits
        endpoint = check_endpoint(endpoint, config.listed_endpoints)
        skips = OnInvalidLines(on_invalid_lines or limits.on_invalid_lines) is OnInvalidLines.ERROR_FILE
        length = limits.custom_id_length
        report, index = scan_file(input_path, endpoint, model_id, length, dialect, skips_invalid_lines=skips)
        if input_path != _STDIN:
            report = _look_at_media(report, input_path, endpoint, index, config.media if fetch else None)
        elif fetch:
            message = "--fetch needs a file: standard input cannot be read twice."
            raise InvalidInput(message, param="input")
    name = "<stdin>" if input_path == _STDIN else str(input_path)
    if as_json:
        emit(_describe(name, endpoint, report))
    else:
        _print(name, endpoint, report)
    for warning in _find_limits_passed(report, limits):
        say(warning, label="warning", style="yellow")
    if report.verdict.fails:
        raise typer.Exit(UNUSABLE)
    if report.verdict.of_requests.problem_count:
        raise typer.Exit(SOME_FAILED)


def inspect_file(
    path: Path,
    endpoint: str,
    model_id: str | None,
    custom_id_length: int,
    dialect: Dialect = Dialect.TOGETHER,
    *,
    skips_invalid_lines: bool = False,
) -> Report:
    """Read a file once and judge each of its lines; raises InvalidInput if it cannot be read."""
    return scan_file(path, endpoint, model_id, custom_id_length, dialect, skips_invalid_lines=skips_invalid_lines)[0]


def scan_file(
    path: Path,
    endpoint: str,
    model_id: str | None,
    custom_id_length: int,
    dialect: Dialect = Dialect.TOGETHER,
    *,
    skips_invalid_lines: bool = False,
) -> tuple[Report, LineIndex]:
    """The same, with the index of the lines."""
    scanner = LineScanner(lines_limit=sys.maxsize, custom_id_length=custom_id_length, problems_kept=sys.maxsize)
    size_bytes = 0
    for piece in _read_pieces(path):
        size_bytes += len(piece)
        scanner.feed(piece)
    index, survey = scanner.finish()
    verdict = judge(survey, endpoint, model_id, dialect, sys.maxsize, skips_invalid_lines=skips_invalid_lines)
    return Report(survey, verdict, size_bytes), index


def _look_at_media(report: Report, path: Path, endpoint: str, index: LineIndex, config: MediaConfig | None) -> Report:
    """The report with what requests name; `config`: fetch it too."""
    media = inspect_media_of(path, endpoint, index)
    found = media.problems
    if config is not None and media.pictures + media.clips:
        say(f"fetching what {path} names")
        found = (*found, *fetch_media(path, endpoint, index, config))
    verdict = report.verdict
    known = {problem.line for problem in verdict.of_requests.problems}
    # A request that is not sent for another reason has said its own.
    new = {problem.line: problem for problem in reversed(found) if problem.line not in known}
    problems = sorted((*verdict.of_requests.problems, *new.values()), key=lambda problem: problem.line or 0)
    of_requests = EndpointSurvey(tuple(problems), len(problems))
    return report._replace(media=media, verdict=verdict._replace(of_requests=of_requests))


def _read_pieces(path: Path) -> Iterator[bytes]:
    try:
        unpacker = Unpacker()
        with sys.stdin.buffer if path == _STDIN else path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield from unpacker.feed(piece)
        yield from unpacker.finish()
    except OSError as error:
        raise name_unreadable(path, error) from None


def _describe(name: str, endpoint: str, report: Report) -> dict[str, object]:
    verdict = report.verdict
    return {
        "file": name,
        "endpoint": endpoint,
        "usable": not verdict.fails,
        "requests": report.survey.lines,
        "size_bytes": report.size_bytes,
        "token_estimate": _count_tokens(report.survey, endpoint),
        "models": report.survey.models,
        "pictures": report.media.pictures,
        "clips": report.media.clips,
        "links": report.media.links,
        "problem_count": verdict.of_file.problem_count,
        "problems": verdict.of_file.problems,
        "request_problem_count": verdict.of_requests.problem_count,
        "request_problems": verdict.of_requests.problems,
    }


def _count_tokens(survey: Survey, endpoint: str) -> int:
    """What all lines are taken to need there, prompts and answers together."""
    needs = [fit_to_endpoint(need, endpoint) for need in survey.needs.values()]
    return sum(need.prompt_tokens + need.completion_tokens for need in needs)


def _print(name: str, endpoint: str, report: Report) -> None:
    survey, verdict = report.survey, report.verdict
    for problem in verdict.of_file.problems:
        write_out(name_problem(name, problem))
    for problem in verdict.of_requests.problems:
        write_out(name_problem(name, problem, label="not sent: "))
    tokens = f"about {_count_tokens(survey, endpoint):,} tokens with the answers"
    write_out(f"{name}: {survey.lines:,} requests for {endpoint}, {tokens}")
    if report.media.pictures or report.media.clips:
        write_out(_name_media(report.media))
    if survey.models:
        write_out(f"models: {', '.join(survey.models)}")
    write_out(_sum_up(report))


def _name_media(media: MediaReport) -> str:
    named = [_count(media.pictures, "picture"), _count(media.clips, "clip")]
    elsewhere = [_count(media.links, "link or path", "links or paths"), _count(media.uploads, "uploaded file")]
    what, where = (" and ".join(filter(None, names)) for names in (named, elsewhere))
    return f"{what}, of {where}" if where else what


def _count(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}" if count else ""


def _sum_up(report: Report) -> str:
    verdict = report.verdict
    failing, unsent = verdict.of_file.problem_count, verdict.of_requests.problem_count
    told = []
    if failing:
        told.append(f"{failing:,} problem{'s' if failing > 1 else ''} of the file: a batch of it fails")
    if unsent:
        told.append(f"{unsent:,} request{'s' if unsent > 1 else ''} would not be sent")
        if not failing:
            left = report.survey.lines - unsent
            fails = ", so a batch of this file fails" if verdict.fails else ""
            told.append(f"the other {left:,} can be run" if left else f"none is left{fails}")
    return "; ".join(told) or "every line can be run"


def _find_limits_passed(report: Report, limits: LimitsConfig) -> list[str]:
    """What a server with these settings would refuse; `backfill run` has no such limits."""
    passed = []
    if report.survey.lines > limits.lines:
        passed.append(f"a server takes {limits.lines:,} requests in one batch (limits.lines); {_CUT}")
    if report.size_bytes > limits.file_size_bytes:
        limit = f"{limits.file_size_bytes:,} bytes"
        passed.append(f"a server takes files of {limit} (limits.file_size_bytes); {_CUT}")
    return passed
