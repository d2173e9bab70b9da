"""`backfill run`: a file of requests in, a file of answers out, no server."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from backfill.batch import BatchProblem
from backfill.cli.check import inspect_file, name_problem
from backfill.cli.console import emit, name_duration, say
from backfill.cli.failures import ALL_ANSWERED, INTERRUPTED, SOME_FAILED, UNUSABLE, end_on_error
from backfill.cli.local_run import Ended, Interrupted, Job, Rejected, discard_state, find_state, run_job
from backfill.cli.logs import configure_logs
from backfill.cli.models import fetch_if_missing
from backfill.cli.options import AsJson, ConfigFile, Deterministic, Endpoint, InputFile, read_key
from backfill.cli.progress import ProgressDisplay, describe_counts
from backfill.cli.results import check_target, name_errors_file
from backfill.config import (
    AutoEngineConfig,
    Config,
    EngineConfig,
    LlamaCppEngineConfig,
    OpenVinoEngineConfig,
    load_config,
)
from backfill.engines import make_deterministic
from backfill.errors import Conflict, InvalidConfig, InvalidInput
from backfill.turns import check_endpoint

__all__ = ["run"]

_EMBEDDINGS, _RESPONSES = "/v1/embeddings", "/v1/responses"


def run(  # noqa: PLR0913 - an option each
    input_path: InputFile,
    output_path: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", dir_okay=False, help="Where the answers go, in input order."),
    ],
    *,
    endpoint: Endpoint = "/v1/chat/completions",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="GGUF file or catalogue name for the built-in engine; with --engine the name there."
        ),
    ] = None,
    engine: Annotated[str | None, typer.Option(metavar="URL", help="An engine that is already running.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="VAR", help="Environment variable with the engine's API key.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(metavar="N", min=1, help="Requests in flight at most.")] = None,
    deterministic: Deterministic = False,
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
        endpoint = check_endpoint(endpoint)
        config = _configure(config_file, output_path, model, engine, api_key_env)
        config = _limit_concurrency(config, concurrency)
        job = Job(input_path, output_path, errors_path or name_errors_file(output_path), endpoint, model)
        config = _prepare(job, config, force=force, deterministic=deterministic)
        with ProgressDisplay(as_json=as_json) as display:
            ending = uvloop.run(run_job(job, config, display))
        raise typer.Exit(_report(ending, job, config, as_json=as_json))


def _configure(
    config_file: Path | None, output_path: Path, model: str | None, engine: str | None, api_key_env: str | None
) -> Config:
    """The user's settings, but for the engine on the command line, the state folder, and no limits on the file."""
    overrides: dict[str, Any] = {
        # A run tells its end to whoever started it.
        "webhooks": {},
        "data_dir": find_state(output_path).absolute(),
        "limits.lines": 2**32 - 1,
        "limits.file_size_bytes": sys.maxsize,
    }
    if api_key_env is not None and engine is None:
        message = "--api-key-env is the key of --engine; engines in the configuration have their `api_key`."
        raise InvalidConfig(message, param="api_key_env")
    if engine is not None:
        overrides["engines"] = {
            "external": {"url": engine, "api_key": read_key(api_key_env), "models": {"*": model or ""}}
        }
    elif model is not None:
        overrides["engines"] = {
            "local": {"model": model},
            "local-embeddings": {"model": model, "kind": "llamacpp", "embeddings": True},
            "local-responses": {"model": model, "kind": "llamacpp", "endpoints": [_RESPONSES]},
        }
    return load_config(config_file, overrides=overrides)


def _limit_concurrency(config: Config, concurrency: int | None) -> Config:
    if concurrency is None:
        return config

    def limit(engine: EngineConfig) -> EngineConfig:
        names = {"slots", "concurrency"} & set(type(engine).model_fields)
        return engine.model_copy(update=dict.fromkeys(names, concurrency))

    return config.model_copy(update={"engines": {name: limit(engine) for name, engine in config.engines.items()}})


def _prepare(job: Job, config: Config, *, force: bool, deterministic: bool) -> Config:
    """Find out now whatever would be a pity to find out later; the settings to run with."""
    if not job.input_path.is_file():
        message = f"There is no input file {job.input_path}."
        raise InvalidInput(message, param="input")
    _check_apart(job)
    state = find_state(job.output_path)
    for target in (job.output_path, job.errors_path):
        check_target(target, force=force or state.is_dir())
    if deterministic and job.endpoint in (_EMBEDDINGS, _RESPONSES):
        message = f"--deterministic is for /v1/chat/completions and /v1/completions, not for {job.endpoint}."
        raise InvalidConfig(message, param="deterministic")
    for model in _list_models(config, job.endpoint):
        fetch_if_missing(model, config.models_dir)
    if deterministic:
        # With the model here, so that its file can be looked at.
        config = make_deterministic(config)
    if force or not state.is_dir():
        discard_state(job.output_path)
    return config


def _list_models(config: Config, endpoint: str) -> list[str]:
    """The models that the built-in engines for the endpoint run."""
    models = []
    for engine in config.engines.values():
        if isinstance(engine, (AutoEngineConfig, OpenVinoEngineConfig)):
            serves = endpoint not in (_EMBEDDINGS, _RESPONSES)
        elif isinstance(engine, LlamaCppEngineConfig):
            serves = engine.embeddings == (endpoint == _EMBEDDINGS)
        else:
            continue
        if serves and engine.narrow(frozenset({endpoint})):
            models.append(engine.model)
    return models


def _check_apart(job: Job) -> None:
    places = [path.resolve() for path in (job.input_path, job.output_path, job.errors_path)]
    if len(set(places)) < len(places):
        message = "Input, output and errors must be three different files."
        raise Conflict(message, code="same_file")


def _report(ending: Ended | Interrupted | Rejected, job: Job, config: Config, *, as_json: bool) -> int:
    match ending:
        case Ended():
            return _report_end(ending, job, as_json=as_json)
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
            all_found = inspect_file(job.input_path, job.endpoint, job.model_id, limit).problems or ending.problems
            return _report_problems(all_found, job, as_json=as_json)


def _report_problems(problems: tuple[BatchProblem, ...], job: Job, *, as_json: bool) -> int:
    for problem in problems:
        say(name_problem(str(job.input_path), problem))
    count = len(problems)
    message = f"{job.input_path} has {count:,} problem{'s' if count > 1 else ''}; nothing was run."
    say(message, label="error", style="red")
    if as_json:
        emit({"event": "error", "code": "invalid_input_file", "message": message, "problems": problems})
    return UNUSABLE


def _report_end(ended: Ended, job: Job, *, as_json: bool) -> int:
    counts = ended.batch.counts
    failed, usage = counts.failed, counts.usage
    tokens_per_s = (usage.completion_tokens - ended.tokens_before) / max(ended.duration_s, 1e-3)
    before = f" ({ended.done_before:,} of them by an earlier run)" if ended.done_before else ""
    say(f"{counts.answered:,} answered, {failed:,} failed{before} in {name_duration(ended.duration_s)}")
    tokens = f"{usage.prompt_tokens:,} tokens in, {usage.completion_tokens:,} out"
    say(f"{tokens}, {tokens_per_s:,.0f} tokens/s" if tokens_per_s >= 1 else tokens)
    if counts.reused:
        say(f"{counts.reused:,} requests got the answer of an identical one")
    say(f"answers: {job.output_path}")
    if failed:
        say(f"errors:  {job.errors_path}")
    if as_json:
        facts = {
            "event": "finished",
            **describe_counts(counts),
            "duration_s": round(ended.duration_s, 3),
            "tokens_per_s": round(tokens_per_s, 1),
            "output": str(job.output_path),
            "errors": str(job.errors_path) if failed else None,
        }
        emit(facts)
    return SOME_FAILED if failed else ALL_ANSWERED
