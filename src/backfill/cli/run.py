"""`backfill run`: a file of requests in, a file of answers out, no server."""

import errno
import os
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from backfill.accounts import cost_of
from backfill.batch import AUDIO_ENDPOINTS, BatchProblem
from backfill.cli.check import inspect_file
from backfill.cli.console import emit, name_duration, say
from backfill.cli.failures import ALL_ANSWERED, INTERRUPTED, SOME_FAILED, UNUSABLE, end_on_error
from backfill.cli.local_run import Ended, Interrupted, Job, Rejected, run_job
from backfill.cli.logs import configure_logs
from backfill.cli.models import fetch_if_missing
from backfill.cli.options import (
    AsJson,
    ConfigFile,
    Deterministic,
    Endpoint,
    OnInvalidLines,
    SkipInvalidLines,
    read_key,
)
from backfill.cli.problems import name_problem, name_unreadable
from backfill.cli.progress import ProgressDisplay, describe_counts
from backfill.cli.results import name_errors_file
from backfill.cli.run_table import TableOrder, run_table
from backfill.cli.table_options import TableOptions, takes_table_options
from backfill.cli.tables import preview_table
from backfill.cli.usage_table import name_cost
from backfill.config import Config, ExternalEngineConfig, ManagedEngineConfig, MoneyConfig
from backfill.engines import make_deterministic
from backfill.engines.models.whisper import is_installed
from backfill.errors import Conflict, InvalidConfig, InvalidInput
from backfill.local import (
    check_target,
    configure_run,
    discard_state,
    find_state,
    limit_concurrency,
    list_built_in_models,
)
from backfill.tables import is_table
from backfill.turns import check_endpoint

__all__ = ["run"]

_DETERMINISTIC = ("/v1/chat/completions", "/v1/completions")


@takes_table_options
def run(  # noqa: PLR0913 - an option each
    input_name: Annotated[
        str, typer.Argument(metavar="INPUT", help="Requests, one JSON object a line; or, with --prompt, a table.")
    ],
    output_path: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", dir_okay=False, help="Where the answers go, in input order."),
    ] = None,
    *,
    table: TableOptions,
    endpoint: Endpoint = "/v1/chat/completions",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Model file or catalogue name for the built-in engine; with --engine the name there."
        ),
    ] = None,
    engine: Annotated[str | None, typer.Option(metavar="URL", help="An engine that is already running.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="VAR", help="Environment variable with the engine's API key.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(metavar="N", min=1, help="Requests in flight at most.")] = None,
    deterministic: Deterministic = False,
    on_invalid_lines: SkipInvalidLines = None,
    config_file: ConfigFile = None,
    errors_path: Annotated[
        Path | None, typer.Option("--errors", metavar="FILE", dir_okay=False, help="Where failed requests go.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace results; throw an unfinished run away.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run every request of a file and write the answers. Interrupted, the same command goes on where it stopped."""
    configure_logs(as_json=as_json, quiet=True)
    with end_on_error(as_json=as_json):
        is_of_rows = table.is_asked or is_table(input_name)
        if not is_of_rows:
            table.refuse_all("is for tables, and goes with --prompt")
        elif table.preview is not None:
            preview_table(input_name, table, table.choose_endpoint(check_endpoint(endpoint)), as_json=as_json)
            return
        if output_path is None:
            raise InvalidInput("-o FILE says where the answers go; it is missing.", param="output")
        config = _configure(config_file, output_path, model, engine, api_key_env)
        endpoint = table.choose_endpoint(check_endpoint(endpoint, config.listed_endpoints))
        config = limit_concurrency(config, concurrency)
        if is_of_rows:
            _refuse_requests_only(errors_path, on_invalid_lines)
            order = TableOrder(input_name, output_path, table, endpoint, model, force)
            code = run_table(order, lambda: _prepare_engines(config, endpoint, deterministic=deterministic), as_json)
            raise typer.Exit(code)
        skips = OnInvalidLines(on_invalid_lines or config.limits.on_invalid_lines) is OnInvalidLines.ERROR_FILE
        errors_path = errors_path or name_errors_file(output_path)
        job = Job(Path(input_name), output_path, errors_path, endpoint, model, skips)
        config = _prepare(job, config, force=force, deterministic=deterministic)
        with ProgressDisplay(as_json=as_json) as display:
            ending = uvloop.run(run_job(job, config, display))
        raise typer.Exit(_report(ending, job, config, as_json=as_json))


def _refuse_requests_only(errors_path: Path | None, on_invalid_lines: OnInvalidLines | None) -> None:
    if errors_path is not None:
        raise InvalidInput("--errors is for requests; a table has a column for errors.", param="errors")
    if on_invalid_lines is not None:
        message = "--on-invalid-lines is for requests; those of a table are made here."
        raise InvalidInput(message, param="on_invalid_lines")


def _configure(
    config_file: Path | None, output_path: Path, model: str | None, engine: str | None, api_key_env: str | None
) -> Config:
    if api_key_env is not None and engine is None:
        message = "--api-key-env is the key of --engine; engines in the configuration have their `api_key`."
        raise InvalidConfig(message, param="api_key_env")
    state = find_state(output_path)
    return configure_run(config_file, state, model=model, engine=engine, api_key=read_key(api_key_env))


def _prepare(job: Job, config: Config, *, force: bool, deterministic: bool) -> Config:
    """Find out now whatever would be a pity to find out later; the settings to run with."""
    if not job.input_path.is_file():
        kind = errno.EISDIR if job.input_path.is_dir() else errno.ENOENT
        raise name_unreadable(job.input_path, OSError(kind, os.strerror(kind)))
    _check_apart(job)
    state = find_state(job.output_path)
    for target in (job.output_path, job.errors_path):
        check_target(target, force=force or state.is_dir())
    config = _prepare_engines(config, job.endpoint, deterministic=deterministic)
    if force or not state.is_dir():
        discard_state(job.output_path)
    return config


def _prepare_engines(config: Config, endpoint: str, *, deterministic: bool) -> Config:
    """Have the models here that the built-in engines need; the settings to run with."""
    if deterministic and endpoint not in _DETERMINISTIC:
        message = f"--deterministic is for /v1/chat/completions and /v1/completions, not for {endpoint}."
        raise InvalidConfig(message, param="deterministic")
    _check_extra(config, endpoint)
    for model in list_built_in_models(config, endpoint):
        fetch_if_missing(model, config.models_dir)
    if deterministic:
        # With the model here, so that its file can be looked at.
        config = make_deterministic(config)
    return config


def _check_extra(config: Config, endpoint: str) -> None:
    """Refuse a run that only the speech engine could do, if that cannot be started."""
    others = [
        engine for engine in config.engines.values() if isinstance(engine, (ExternalEngineConfig, ManagedEngineConfig))
    ]
    if endpoint in AUDIO_ENDPOINTS and not others and not is_installed():
        raise InvalidConfig(
            'Clips need an extra that is not installed: pip install "backfill[audio]".', param="engines"
        )


def _check_apart(job: Job) -> None:
    places = [path.resolve() for path in (job.input_path, job.output_path, job.errors_path)]
    if len(set(places)) < len(places):
        message = "Input, output and errors must be three different files."
        raise Conflict(message, code="same_file")


def _report(ending: Ended | Interrupted | Rejected, job: Job, config: Config, *, as_json: bool) -> int:
    match ending:
        case Ended():
            return _report_end(ending, job, config.money, as_json=as_json)
        case Interrupted():
            if ending.total:
                say(f"stopped with {ending.done:,} of {ending.total:,} done; the same command goes on from there")
            else:
                say("stopped before anything was run")
            if as_json:
                emit({"event": "interrupted", "total": ending.total, "done": ending.done})
            return INTERRUPTED
        case Rejected():
            # The batch kept the first few; the user gets them all.
            limit = config.limits.custom_id_length
            report = inspect_file(
                job.input_path, job.endpoint, job.model_id, limit, skips_invalid_lines=job.skips_invalid_lines
            )
            return _report_problems(report.verdict.reasons.problems or ending.problems, job, as_json=as_json)


def _report_problems(problems: tuple[BatchProblem, ...], job: Job, *, as_json: bool) -> int:
    for problem in problems:
        say(name_problem(str(job.input_path), problem))
    count = len(problems)
    message = f"{job.input_path} has {count:,} problem{'s' if count > 1 else ''}; nothing was run."
    say(message, label="error", style="red")
    if as_json:
        emit({"event": "error", "code": "invalid_input_file", "message": message, "problems": problems})
    return UNUSABLE


def _report_end(ended: Ended, job: Job, money: MoneyConfig, *, as_json: bool) -> int:
    for problem in ended.batch.problems:
        say(problem.message, label="error", style="red")
    counts = ended.batch.counts
    failed, usage = counts.failed, counts.usage
    tokens_per_s = (usage.completion_tokens - ended.tokens_before) / max(ended.duration_s, 1e-3)
    before = f" ({ended.done_before:,} of them by an earlier run)" if ended.done_before else ""
    say(f"{counts.answered:,} answered, {failed:,} failed{before} in {name_duration(ended.duration_s)}")
    if usage.audio_ms:
        say(f"{name_duration(usage.audio_ms / 1000)} of audio")
    if usage.prompt_tokens or usage.completion_tokens or not usage.audio_ms:
        tokens = f"{usage.prompt_tokens:,} tokens in, {usage.completion_tokens:,} out"
        say(f"{tokens}, {tokens_per_s:,.0f} tokens/s" if tokens_per_s >= 1 else tokens)
    if counts.reused:
        say(f"{counts.reused:,} requests got the answer of an identical one")
    cost = cost_of(ended.batch, ended.batch.used, money)
    # Most models that somebody runs here have no price; then there is nothing to say.
    if cost["paid"] is not None and (told := name_cost(cost)):
        say(f"at the catalogue's prices: {told}")
    say(f"answers: {job.output_path}")
    has_errors = ended.batch.error_file_id is not None
    if has_errors:
        say(f"errors:  {job.errors_path}")
    if as_json:
        facts = {
            "event": "finished",
            **describe_counts(counts),
            "duration_s": round(ended.duration_s, 3),
            "tokens_per_s": round(tokens_per_s, 1),
            "cost": cost,
            "output": str(job.output_path),
            "errors": str(job.errors_path) if has_errors else None,
        }
        emit(facts)
    return SOME_FAILED if failed else ALL_ANSWERED
