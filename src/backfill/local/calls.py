"""What `import backfill` offers: a table in, the same kind of table out, without a server."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from os import PathLike  # noqa: TC003 - whoever reads the types of `RunOptions` needs it
from pathlib import Path
from typing import Any, TypedDict, Unpack

from backfill.engines.models.catalogue import CATALOGUE, find_model, pull
from backfill.errors import InvalidInput, ModelUnavailable
from backfill.local.call import Call, RowResult, find_place
from backfill.local.python_tables import take_table
from backfill.local.result_files import check_target
from backfill.local.settings import choose_model, configure_run, limit_concurrency, list_built_in_models
from backfill.local.state import find_state
from backfill.local.table_job import TableJob
from backfill.tables import (
    CHAT,
    TRANSCRIPTIONS,
    AnswerReader,
    AnswerSchema,
    MemoryTable,
    RequestBuilder,
    RequestPlan,
    check_known,
    check_new,
    check_same_form,
)
from backfill.turns import check_endpoint

__all__ = ["RunOptions", "arun", "astream", "run", "stream"]


class RunOptions(TypedDict, total=False):
    """What may be said besides the table and the prompt."""

    columns: Any
    """What an answer becomes: a pydantic model, a list such as "label:enum(pos,neg), score:float", or a JSON schema."""
    system: str | None
    """Said before each prompt, word for word."""
    model: str | None
    """Of the built-in engine a name or a GGUF file; of `engine` the name there."""
    engine: str | None
    """URL of an engine that is running; None: the one of the settings, or the built-in one."""
    api_key: str | None
    """Of `engine`."""
    image: str | None
    """The column with URLs or paths of images that go with the prompt."""
    audio: str | None
    """The column with URLs or paths of audio, which is transcribed; the prompt may then be empty."""
    parameters: Mapping[str, Any] | None
    """Further members of each request, such as {"temperature": 0}."""
    endpoint: str
    answer_column: str
    """Where answers go without `columns`."""
    error_column: str
    usage: bool
    """Whether tokens and latency are added."""
    limit: int | None
    """Only the first rows."""
    output: "str | PathLike[str] | None"
    """Where a table that was given as a path goes with its answers."""
    concurrency: int | None
    """Requests in flight at most."""
    config: "str | PathLike[str] | None"
    """Settings; ./backfill.toml if it is there."""
    progress: bool | None
    """Whether it is shown how far it is; None: where somebody sees it."""


def run(table: Any, prompt: str, **options: Unpack[RunOptions]) -> Any:
    """Ask `prompt` about every row, and give the table back with the answers in new columns.

    Args:
        table: a list of dicts, a DataFrame of pandas or polars, a relation of DuckDB, a pyarrow.Table or whatever else
            speaks Arrow's C stream, or the path of a file (then `output` says where the answers go).
        prompt: text with columns in braces, such as "Classify: {text}".
        **options: see `RunOptions`.

    Returns:
        The same kind of table, a new one: every row, in order, with `answer` or the columns of `columns`, and `_error`,
        which is null where all is well. For a path, the path of the output.

    Raises:
        InvalidInput: a column is not there, or something else that was given has no meaning; nothing was sent.
        BackfillError: see `backfill.errors`.
        KeyboardInterrupt: once what was in flight has finished; the same call goes on from there.

    """
    return _prepare(table, prompt, options, is_streamed=False).start(streaming=False).wait()


def stream(table: Any, prompt: str, **options: Unpack[RunOptions]) -> Iterator[RowResult]:
    """Ask as `run` does, and give the result of each row as soon as it has finished, in no order.

    What an interrupted call has got done comes first when it is called again. Whoever leaves the loop stops the call.
    """
    # Not within the generator: what makes no sense is told at the call.
    call = _prepare(table, prompt, options, is_streamed=True)
    return _take_all(call)


def _take_all(call: Call) -> Iterator[RowResult]:
    yield from call.start(streaming=True).take_all()


async def arun(table: Any, prompt: str, **options: Unpack[RunOptions]) -> Any:
    """As `run`, for a program with an event loop. Cancelled, it ends once what is in flight has finished."""
    call = await asyncio.to_thread(_prepare, table, prompt, options, is_streamed=False)
    running = call.start(streaming=False)
    try:
        return await asyncio.to_thread(running.future.result)
    except asyncio.CancelledError:
        await asyncio.to_thread(running.end)
        raise


async def astream(table: Any, prompt: str, **options: Unpack[RunOptions]) -> AsyncIterator[RowResult]:
    """As `stream`, for a program with an event loop."""
    call = await asyncio.to_thread(_prepare, table, prompt, options, is_streamed=True)
    running = call.start(streaming=True)
    try:
        while not (running.is_over and running.is_empty):
            result = await asyncio.to_thread(running.take)
            if result is not None:
                yield result
        running.future.result()
    finally:
        await asyncio.to_thread(running.end)


def _prepare(table: Any, prompt: str, options: RunOptions, *, is_streamed: bool) -> Call:
    """Find out now whatever would be a pity to find out later."""
    default = CHAT if options.get("audio") is None else TRANSCRIPTIONS
    endpoint = check_endpoint(options.get("endpoint", default))
    schema = _read_schema(options.get("columns"))
    plan = RequestPlan(
        prompt=prompt,
        system=options.get("system"),
        schema=schema,
        endpoint=endpoint,
        parameters=options.get("parameters") or {},
        image_column=options.get("image"),
        audio_column=options.get("audio"),
    )
    builder = RequestBuilder(plan)
    reader = AnswerReader(
        schema,
        endpoint,
        options.get("answer_column", "answer"),
        options.get("error_column", "_error"),
        with_usage=options.get("usage", False),
    )
    given = take_table(table, builder.columns)
    rows = given.table
    check_known(builder.columns, rows.columns, table=rows.name, asked_by="the prompt")
    check_new([column.name for column in reader.columns], rows.columns, table=rows.name)
    output = _find_output(given.kind, given.given, options.get("output"), is_streamed=is_streamed)
    fingerprint = rows.fingerprint(builder.columns) if isinstance(rows, MemoryTable) else rows.fingerprint()
    model, engine = options.get("model"), options.get("engine")
    limit = options.get("limit")
    place = output or find_place(plan, fingerprint, limit)
    given_config = options.get("config")
    config = configure_run(
        None if given_config is None else Path(given_config),
        find_state(place),
        model=model,
        engine=engine,
        api_key=options.get("api_key"),
    )
    config = limit_concurrency(config, options.get("concurrency"))
    model = model or choose_model(config, endpoint)
    if model is None:
        raise InvalidInput("Nothing says which model the rows are for; the argument model does.", param="model")
    job = TableJob(rows, builder, reader, model, limit, known_fingerprint=fingerprint)
    for needed in list_built_in_models(config, endpoint):
        _have_model(needed, config.models_dir)
    return Call(given, job, config, place, output, options.get("progress"))


def _have_model(name: str, models_dir: Path) -> None:
    """See that a model is here, and fetch one of the catalogue; raises ModelUnavailable."""
    try:
        find_model(name, models_dir)
    except ModelUnavailable:
        if name not in CATALOGUE:
            raise
        pull(name, models_dir, lambda *_: None)


def _read_schema(columns: Any) -> AnswerSchema | None:
    if columns is None:
        return None
    if isinstance(columns, str):
        return AnswerSchema.of_columns(columns)
    if hasattr(columns, "model_json_schema"):
        return AnswerSchema.of_model(columns)
    if isinstance(columns, Mapping):
        return AnswerSchema.of_json_schema(dict(columns))
    message = "columns takes a pydantic model, a list such as 'label:enum(pos,neg), score:float', or a JSON schema."
    raise InvalidInput(message, param="columns")


def _find_output(kind: str, given: Any, output: Any, *, is_streamed: bool) -> Path | None:
    if is_streamed:
        if output is not None:
            raise InvalidInput("A stream has no output; it gives each row to the caller.", param="output")
        return None
    if kind != "path":
        if output is not None:
            message = "output goes with the path of a table; a table in memory comes back as the result."
            raise InvalidInput(message, param="output")
        return None
    if output is None:
        raise InvalidInput("For a table given as a path, output says where its answers go.", param="output")
    target = Path(output)
    check_same_form(given, target)
    check_target(target, force=find_state(target).is_dir())
    return target
