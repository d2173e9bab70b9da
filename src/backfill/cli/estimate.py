"""`backfill estimate`: what a file takes, costs and lasts, before anything is sent."""

from pathlib import Path
from typing import Annotated, Any

import typer

from backfill.batch import Reservation, fit_to_endpoint
from backfill.catalogue import Catalogue
from backfill.cli.check import Report, scan_file
from backfill.cli.connection import KeyVariable, ask_server
from backfill.cli.console import emit, name_duration, say, write_out
from backfill.cli.failures import UNUSABLE, end_on_error
from backfill.cli.options import AsJson, ConfigFile, Endpoint, OnInvalidLines, Window
from backfill.cli.usage_table import name_amount
from backfill.config import load_config
from backfill.index import LineIndex
from backfill.turns import check_endpoint
from backfill.wire.estimates import render_estimate

__all__ = ["estimate"]


def estimate(  # noqa: PLR0913 - an option each
    input_path: Annotated[
        Path, typer.Argument(metavar="INPUT.jsonl", help='Requests, one JSON object a line; "-" reads standard input.')
    ],
    *,
    endpoint: Endpoint = "/v1/chat/completions",
    model_id: Annotated[str | None, typer.Option(metavar="NAME", help="Model of requests that name none.")] = None,
    window: Window = None,
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="Ask it how long that takes, and for its prices.")
    ] = None,
    api_key_env: KeyVariable = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say how many tokens a file takes, what they cost and how long they last, before anything is sent."""
    with end_on_error(as_json=as_json):
        config = load_config(config_file)
        endpoint = check_endpoint(endpoint, config.listed_endpoints)
        skips = OnInvalidLines(config.limits.on_invalid_lines) is OnInvalidLines.ERROR_FILE
        length = config.limits.custom_id_length
        report, index = scan_file(input_path, endpoint, model_id, length, skips_invalid_lines=skips)
        needs = _reserve(index, model_id)
        reserved = {model: fit_to_endpoint(need, endpoint) for model, need in needs.items()}
        catalogue = Catalogue.load(config.catalogue.file, config.catalogue.models)
        told = render_estimate(reserved, {model: catalogue.price(model) for model in reserved}, endpoint)
    if server is not None and reserved:
        wanted: dict[str, Any] = {
            "endpoint": endpoint,
            "models": {name: _want(each) for name, each in reserved.items()},
        }
        if window:
            wanted["completion_window"] = window
        told = ask_server(lambda remote: remote.estimate(wanted), server, api_key_env, as_json=as_json)
    if as_json:
        emit({"file": str(input_path), "usable": not report.verdict.fails, **told})
    else:
        _print(told)
    _warn(report, told)
    if report.verdict.fails:
        raise typer.Exit(UNUSABLE)


def _reserve(index: LineIndex, model_id: str | None) -> dict[str, Reservation]:
    """Model -> what its lines are taken to need."""
    sums: dict[str, list[int]] = {}
    names = [name or model_id or "" for name in index.model_names]
    for model, tokens, answer in zip(index.models, index.token_estimates, index.answer_tokens, strict=True):
        found = sums.setdefault(names[model], [0, 0, 0])
        found[0] += 1
        found[1] += tokens - answer
        found[2] += answer
    return {name: Reservation(*found) for name, found in sums.items() if name}


def _want(need: Reservation) -> dict[str, int]:
    return {
        "requests": need.lines,
        "prompt_tokens": need.prompt_tokens,
        "completion_tokens": need.completion_tokens,
    }


def _print(told: dict[str, Any]) -> None:
    currency = told["currency"]
    for one in told["models"]:
        price = "price unknown" if one["list_price"] is None else name_amount(one["list_price"], currency)
        write_out(f"{one['model']}: {_name_tokens(one)}, {price}, {one['batch_discount_percent']} % off for batches")
    facts = {"tokens": _name_tokens(told)}
    if told["list_price"] is None:
        facts["price"] = "unknown, as that of a model is"
    else:
        facts |= {
            "list price": name_amount(told["list_price"], currency),
            "as a batch": name_amount(told["batch_price"], currency),
            "saved": name_amount(told["saved"], currency),
        }
    if "estimated_seconds" in told:
        seconds, at = told["estimated_seconds"], told["estimated_completion_at"]
        facts["time"] = (
            "unknown, as the engines did nothing yet" if at is None else f"{name_duration(seconds)}, until {at}"
        )
    for name, value in facts.items():
        write_out(f"{name:10} {value}")


def _name_tokens(need: dict[str, Any]) -> str:
    requests, prompt, answers = need["requests"], need["prompt_tokens"], need["completion_tokens"]
    noun = "request" if requests == 1 else "requests"
    return f"{requests:,} {noun}, about {prompt:,} tokens of prompts and {answers:,} of answers"


def _warn(report: Report, told: dict[str, Any]) -> None:
    if told.get("warning"):
        say(told["warning"], label="warning", style="yellow")
    problems = report.verdict.of_file.problem_count + report.verdict.of_requests.problem_count
    if problems:
        noun = "line has" if problems == 1 else "lines have"
        say(f"{problems:,} {noun} problems; `backfill check` names them", label="warning", style="yellow")
