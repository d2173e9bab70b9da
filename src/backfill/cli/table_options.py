"""The options with which a table is made into requests, and answers into columns; several commands have them."""

import functools
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
import typer

from backfill.errors import InvalidInput
from backfill.tables import CHAT, TRANSCRIPTIONS, AnswerReader, AnswerSchema, RequestPlan

__all__ = ["TableOptions", "takes_table_options"]

_ANSWERS, _ROWS = "Answers of tables", "Tables"


@dataclass(frozen=True)
class TableOptions:
    """What was said about a table; `prompt` is None where there is none."""

    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="What to ask about each row: 'Classify: {text}'. @FILE reads it from a file."
        ),
    ] = None
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt of each request; @FILE.")] = None
    columns: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Columns of answers: 'label:enum(pos,neg), score:float, tags:list[str]'."),
    ] = None
    schema: Annotated[
        str | None, typer.Option(metavar="FILE", help="The same as a JSON schema, or as package:Model of pydantic.")
    ] = None
    id_column: Annotated[
        str | None, typer.Option("--id", metavar="COLUMN", help="Names each row; without it, its number does.")
    ] = None
    image_column: Annotated[
        str | None, typer.Option("--image", metavar="COLUMN", help="URLs or paths of images that go with the prompt.")
    ] = None
    audio_column: Annotated[
        str | None,
        typer.Option("--audio", metavar="COLUMN", help="URLs or paths of audio; the rows go to be transcribed."),
    ] = None
    set_parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A member of each request, such as temperature=0; again for more."
        ),
    ] = None
    answer_column: Annotated[str, typer.Option(metavar="NAME", help="Where answers go without --columns.")] = "answer"
    error_column: Annotated[str, typer.Option(metavar="NAME", help="Where it says why a row has none.")] = "_error"
    usage: Annotated[bool, typer.Option("--usage", help="Add the tokens and the latency of each row.")] = False
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first rows.")] = None
    preview: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Show the requests of the first rows, and send nothing.")
    ] = None

    @property
    def is_asked(self) -> bool:
        """Whether it was said what to ask about rows."""
        return self.prompt is not None or self.audio_column is not None

    def choose_endpoint(self, endpoint: str) -> str:
        """Where the rows go: audio is transcribed unless something else was said."""
        return TRANSCRIPTIONS if self.audio_column is not None and endpoint == CHAT else endpoint

    def make_plan(self, endpoint: str, model: str | None) -> RequestPlan:
        """What each row asks; raises InvalidInput."""
        return RequestPlan(
            prompt=_read_text("prompt", self.prompt or ""),
            system=None if self.system is None else _read_text("system", self.system),
            schema=self._read_schema(),
            endpoint=endpoint,
            model=model,
            parameters=dict(_parse_parameter(each) for each in self.set_parameters or ()),
            id_column=self.id_column,
            image_column=self.image_column,
            audio_column=self.audio_column,
        )

    def make_reader(self, endpoint: str) -> AnswerReader:
        """What becomes of answers; raises InvalidInput."""
        return AnswerReader(self._read_schema(), endpoint, self.answer_column, self.error_column, with_usage=self.usage)

    def refuse_all(self, why: str) -> None:
        """Raise InvalidInput, with the reason, if any of them was given."""
        for field in fields(self):
            if getattr(self, field.name) != field.default:
                name = {
                    "id_column": "id",
                    "image_column": "image",
                    "audio_column": "audio",
                    "set_parameters": "set",
                }.get(field.name, field.name)
                raise InvalidInput(f"--{name.replace('_', '-')} {why}.", param=name)

    def _read_schema(self) -> AnswerSchema | None:
        if self.columns is not None and self.schema is not None:
            raise InvalidInput("--columns and --schema say the same thing; give one of them.", param="columns")
        if self.columns is not None:
            return AnswerSchema.of_columns(self.columns)
        if self.schema is None:
            return None
        if not self.schema.endswith(".json") and ":" in self.schema:
            return AnswerSchema.of_model(_import_model(self.schema))
        text = _read_text("schema", f"@{self.schema}")
        try:
            return AnswerSchema.of_json_schema(msgspec.json.decode(text))
        except msgspec.DecodeError as error:
            raise InvalidInput(f"{self.schema} is not JSON: {error}.", param="schema") from None


def takes_table_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with all of `TableOptions` as options of its own; it gets them together, as `table`."""
    known = get_type_hints(TableOptions, include_extras=True)
    added = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=known[field.name]
        )
        for field in fields(TableOptions)
    ]
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "table"]

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        told = {field.name: options.pop(field.name) for field in fields(TableOptions) if field.name in options}
        command(*arguments, table=TableOptions(**told), **options)

    parameters = [*own, *added]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _read_text(option: str, text: str) -> str:
    """The text, or that of the file behind an @; @@ is an @ itself."""
    if not text.startswith("@"):
        return text
    if text.startswith("@@"):
        return text[1:]
    path = Path(text[1:])
    try:
        return path.read_text(encoding="utf-8-sig").removesuffix("\n")
    except OSError as error:
        raise InvalidInput(f"The file {path} of --{option} cannot be read: {error.strerror}.", param=option) from None
    except UnicodeDecodeError:
        raise InvalidInput(f"The file {path} of --{option} is not UTF-8.", param=option) from None


def _parse_parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidInput(f"--set takes NAME=VALUE, such as temperature=0; got {text!r}.", param="set")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value


def _import_model(name: str) -> Any:
    # As `python -m` does: what lies in the folder at hand can be named.
    if os.getcwd() not in sys.path:  # noqa: PTH109 - a text among texts
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        model = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInput(f"The model {name} of --schema is not to be had: {error}.", param="schema") from None
    if not hasattr(model, "model_json_schema"):
        raise InvalidInput(f"{name} is no pydantic model; --schema takes package:Model or a JSON file.", param="schema")
    return model
