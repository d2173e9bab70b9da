"""What the linters cannot see: that the code keeps its limits, and that drawings and pages tell the truth."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel

from backfill import batch, config, errors
from tests.conftest import LONGEST_FIRST

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "backfill"
MODULES = sorted(SOURCE.rglob("*.py"))
ROOMS = sorted(path.parent for path in SOURCE.glob("*/__init__.py"))
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
each_room = pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)


def read_page(name: str) -> str:
    path = ROOT / name
    assert path.is_file(), f"{name} is missing"
    return path.read_text(encoding="utf-8")


@each_module
def test_modules_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MODULE_LINES_MAX, f"{lines} lines: this module tells more than one story"


@each_module
def test_functions_are_short(path: Path) -> None:
    functions = (
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    lengths = [(function.name, (function.end_lineno or 0) - function.lineno + 1) for function in functions]
    assert [(name, length) for name, length in lengths if length > FUNCTION_LINES_MAX] == []


@each_module
def test_modules_say_what_they_are(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "the module has no docstring"


@each_module
def test_nothing_is_left_to_do_without_an_issue(path: Path) -> None:
    bare = re.compile(r"\b(TODO|FIXME|XXX)\b(?!\(#\d+\))")
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    assert [number for number, line in lines if bare.search(line)] == []


def sort_as_ruff_does(names: list[str]) -> list[str]:
    def rank(name: str) -> tuple[int, str]:
        if name.isupper():
            return (0, name)
        return (1 if name[0].isupper() else 2, name)

    return sorted(names, key=rank)


@each_room
def test_rooms_say_what_they_offer(room: Path) -> None:
    module = importlib.import_module(f"backfill.{room.name}")
    stub = ast.parse((room / "__init__.pyi").read_text(encoding="utf-8"))
    listed = next(ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign))
    imported = [name.name for node in stub.body if isinstance(node, ast.ImportFrom) for name in node.names]
    assert listed == sort_as_ruff_does(imported), "the stub lists what it imports, sorted"
    assert sorted(module.__all__) == sorted(listed)
    assert [name for name in listed if not hasattr(module, name)] == []


HOSTS = ("openvino.host.handlers", "llamacpp.host", "managed.host", "speech.host.handlers")
"""The programs of child processes, at the module that loads most of each."""


@pytest.mark.parametrize("host", HOSTS)
def test_a_child_process_loads_nothing_of_the_server(host: str) -> None:
    name = f"backfill.engines.{host}"
    code = f"import sys, {name}; print(*(module for module in sys.modules if module.startswith('backfill')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    kind = name.rpartition(".host")[0]
    of_the_host = (f"{name.partition('.host')[0]}.host", f"{kind}.messages", "backfill.engines.host_")
    outside = [module for module in loaded if not module.startswith(of_the_host)]
    assert sorted(outside) == ["backfill", "backfill.engines", kind]


def test_folders_with_code_are_rooms() -> None:
    folders = {path.relative_to(SOURCE).parts[0] for path in MODULES if path.parent != SOURCE}
    assert folders == {room.name for room in ROOMS}


def read_drawn_errors(page: str) -> dict[str, str]:
    """Class -> parent, as the tree at the top of errors.py draws them."""
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in page.splitlines():
        found = re.fullmatch(r"    ((?:│   |    )*(?:[├└]── )?)([A-Z]\w+)(?: {2,}.*)?", line)
        if found:
            depth = len(found[1]) // 4
            del above[depth:]
            drawn[found[2]] = above[-1] if above else "Exception"
            above.append(found[2])
    return drawn


def test_the_error_tree_is_drawn_as_it_is() -> None:
    defined = {
        name: one.__bases__[0].__name__
        for name, one in inspect.getmembers(errors, inspect.isclass)
        if one.__module__ == errors.__name__
    }
    assert read_drawn_errors(errors.__doc__ or "") == defined


def test_the_state_drawing_has_every_state_and_event() -> None:
    words = set(re.findall(r"\w+", batch.__doc__ or ""))
    assert {state.name for state in batch.State} - words == set()
    assert {event.value for event in batch.Event} - words == set()


def test_the_way_of_the_data_names_rooms() -> None:
    found = re.search(r"`(\w+(?: → \w+){2,})`", read_page("ARCHITECTURE.md"))
    assert found, "ARCHITECTURE.md does not say which way the data goes"
    rooms = found[1].split(" → ")
    assert rooms == ["intake", "turns", "plan", "dispatch", "engines", "journal", "deliver"]
    assert [room for room in rooms if not (SOURCE / room / "__init__.py").is_file()] == []


def find_models(annotation: object) -> Iterator[type[BaseModel]]:
    """Every pydantic model inside a type, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for one in annotation.model_fields.values():
            yield from find_models(one.annotation)
    for argument in get_args(annotation):
        yield from find_models(argument)


def test_every_setting_is_documented() -> None:
    page = read_page("docs/configuration.md")
    settings = {name for model in find_models(config.Config) for name in model.model_fields}
    # As code (`name`, `section.name`) or as a line of TOML.
    missing = [name for name in settings if not re.search(rf"(?m)(?:[`.]|^#? ?){name}(?:`| *=)", page)]
    assert sorted(missing) == []


def list_files() -> list[Path]:
    """What is in the repository, or would be with the next commit."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def test_no_file_knows_where_it_was_written() -> None:
    # Written in halves, so that this file does not find itself.
    halves = [
        "pypi" + r"\.org",
        "python" + r"hosted\.org",
        r"index" + "-url",
        "/ro" + "ot/",
        "/ho" + r"me/\w",
        "/Us" + r"ers/\w",
    ]
    forbidden = re.compile("|".join(halves).encode())
    files = list_files()
    assert files
    found = {str(path.relative_to(ROOT)): hit[0] for path in files if (hit := forbidden.search(path.read_bytes()))}
    assert found == {}


def read_pins(name: str) -> dict[str, Requirement]:
    lines = [line for line in read_page(f"requirements/{name}").splitlines() if line and line[0] not in "#-"]
    pins = [Requirement(line) for line in lines]
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in pins), "a line is not pinned"
    return {canonicalize_name(pin.name): pin for pin in pins}


def test_the_pins_fit_the_dependencies() -> None:
    project = tomllib.loads(read_page("pyproject.toml"))["project"]
    runtime = read_pins("runtime.txt")
    everything = runtime | read_pins("dev.txt")
    extras = [one for extra in project["optional-dependencies"].values() for one in extra]
    for text, pins in [(one, runtime) for one in project["dependencies"]] + [(one, everything) for one in extras]:
        wanted = Requirement(text)
        pinned = str(pins[canonicalize_name(wanted.name)].specifier).removeprefix("==")
        assert pinned in wanted.specifier, f"{wanted.name} is pinned to {pinned}, which {text!r} does not allow"


def test_the_files_that_begin_first_are_there() -> None:
    assert [file for file in LONGEST_FIRST if not (ROOT / file).is_file()] == []
