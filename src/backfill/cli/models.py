"""`backfill models`: what the built-in engine can run, and how its files get here."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from backfill.catalogue import Catalogue, CatalogueModel, to_dollars
from backfill.cli.console import CONSOLE, emit, name_size, say, write_out
from backfill.cli.failures import end_on_error
from backfill.cli.options import AsJson, ConfigFile
from backfill.cli.price_table import draw_prices
from backfill.config import load_config
from backfill.engines.models.catalogue import (
    CATALOGUE,
    ModelFile,
    choose_engine,
    find_model,
    list_models,
    measure,
    pull,
)
from backfill.errors import ModelUnavailable

__all__ = ["fetch_if_missing", "models"]

models = typer.Typer(help="Models for the built-in engine.", no_args_is_help=True)


@models.command("list")
def list_command(config_file: ConfigFile = None, *, as_json: AsJson = False) -> None:
    """Show the model files that are here, and of all models that are known what they cost."""
    with end_on_error(as_json=as_json):
        config = load_config(config_file)
        files = list_models(config.models_dir)
        engines = [choose_engine(model.path) if model.path else "" for model in files]
        catalogue = Catalogue.load(config.catalogue.file, config.catalogue.models)
    if as_json:
        emit(
            [_describe_file(*one) for one in zip(files, engines, strict=True)] + list(map(_describe, catalogue.models))
        )
        return
    width = max(len(model.name) for model in files)
    for model, engine in zip(files, engines, strict=True):
        here = name_size(model.size_bytes) if model.path else "not fetched"
        write_out(f"{model.name:{width}}  {here:>11}  {engine:8}  {model.summary}".rstrip())
    say(f"in {config.models_dir}")
    write_out("")
    for line in draw_prices(catalogue.models):
        write_out(line)
    say("US dollars for a million tokens; an engine of yours serves a model whose id it lists")


def _describe_file(model: ModelFile, engine: str) -> dict[str, Any]:
    return {
        "name": model.name,
        "path": str(model.path) if model.path else None,
        "size_bytes": model.size_bytes,
        "engine": engine or None,
        "summary": model.summary,
    }


def _describe(model: CatalogueModel) -> dict[str, Any]:
    price = model.price
    return {
        "name": model.id,
        "path": None,
        "size_bytes": 0,
        "engine": None,
        "summary": "",
        "aliases": model.aliases,
        "type": model.type,
        "context_length": model.context_length,
        "input_per_million": to_dollars(price.input_per_million),
        "cached_input_per_million": to_dollars(price.cached_input_per_million),
        "output_per_million": to_dollars(price.output_per_million),
        "audio_per_minute": to_dollars(price.audio_per_minute),
        "batch_discount_percent": price.discount_percent,
        "price_source": model.price_source or None,
        "price_date": model.price_date,
        "retired": model.retired,
    }


@models.command("pull")
def pull_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of the catalogue, or hf:OWNER/REPO[:FILE].")],
    config_file: ConfigFile = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Fetch a model; one that is here already is left alone."""
    with end_on_error(as_json=as_json):
        path = _find(name, config := load_config(config_file).models_dir) or _pull(name, config)
    if as_json:
        emit({"name": name, "path": str(path), "size_bytes": measure(path)})
    else:
        write_out(str(path))


def fetch_if_missing(name_or_path: str, models_dir: Path) -> None:
    """Fetch a model of the catalogue before it is needed, where the user can see it; raises ModelUnavailable."""
    if name_or_path not in CATALOGUE:
        find_model(name_or_path, models_dir)
    elif _find(name_or_path, models_dir) is None:
        _pull(name_or_path, models_dir)


def _find(name: str, models_dir: Path) -> Path | None:
    with suppress(ModelUnavailable):
        return find_model(name, models_dir)
    return None


def _pull(name: str, models_dir: Path) -> Path:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[numbers]}"))
    with Progress(*columns, console=CONSOLE, disable=not CONSOLE.is_terminal, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done_bytes: int, total_bytes: int) -> None:
            if not tasks:
                say(f"fetching the model {name}, once")
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=None, numbers="")
            numbers = f"{name_size(done_bytes)} of {name_size(total_bytes)}" if total_bytes else ""
            bar.update(tasks[stage], completed=done_bytes, total=total_bytes or None, numbers=numbers)

        return pull(name, models_dir, show)
