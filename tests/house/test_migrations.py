"""What lets two releases work side by side: what a migration may do, how rows are read, and which bytes are written."""

import hashlib
import importlib.util
import io
import re
from array import array
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from backfill.batch import Outcome, Usage
from backfill.index import IndexBuilder, LineFacts, LineIndex
from backfill.journal import Record
from backfill.journal.record import encode_header, encode_record
from backfill.plan import cut_lines
from backfill.store import revision
from tests.support.release import make_contracting, make_expanding

STORE = Path(revision.__file__).parent
VERSIONS = STORE / "migrations" / "versions"
MODULES = sorted(VERSIONS.glob("r*.py"))
# A new table, or a new column that old code need not name.
EXPANSION = re.compile(
    r"CREATE TABLE \w+ \((?:(?!REFERENCES)[^;])*\)"
    r"|ALTER TABLE \w+ ADD COLUMN \w+ (?:(?!REFERENCES|UNIQUE|NOT NULL|DEFAULT)[^;])*"
    r"(?:DEFAULT (?:'[^']*'|\w+)(?: NOT NULL)?)?",
)


def read_statements(module: ModuleType) -> list[str]:
    """What a migration would send to PostgreSQL."""
    written = io.StringIO()
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": written})
    with Operations.context(context):
        module.upgrade()
    return [" ".join(each.split()) for each in written.getvalue().split(";\n") if each.strip()]


def find_faults(statements: list[str]) -> list[str]:
    """Those that old code would not bear beside it, or that would keep writers from a table for long."""
    return [each for each in statements if not EXPANSION.fullmatch(each)]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_each_migration_says_its_kind_and_keeps_to_it(path: Path) -> None:
    module = load(path)
    # As it is read by who does not load the module.
    assert re.findall(r'^kind = "(expand|contract)"$', path.read_text(), re.MULTILINE) == [module.kind]
    assert module.revision == path.stem[1:5]
    if module.kind == "expand":
        assert find_faults(read_statements(module)) == []


def test_an_expansion_is_told_from_what_is_none(tmp_path: Path) -> None:
    expanding, contracting = make_expanding(tmp_path / "one", "0010"), make_contracting(tmp_path / "other", "0010")
    statements = read_statements(load(expanding.versions / "r0010_next.py"))
    assert len(statements) == 3
    assert find_faults(statements) == []
    assert len(find_faults(read_statements(load(contracting.versions / "r0010_next.py")))) == 1


def list_bad_steps() -> list[Any]:
    return [
        lambda op: op.add_column("files", sa.Column("n", sa.Integer, nullable=False)),
        lambda op: op.add_column("files", sa.Column("n", sa.Integer, unique=True)),
        lambda op: op.add_column("files", sa.Column("n", sa.String(9), sa.ForeignKey("batches.id"))),
        lambda op: op.drop_column("files", "purpose"),
        lambda op: op.alter_column("files", "purpose", nullable=True),
        lambda op: op.alter_column("files", "purpose", new_column_name="use"),
        lambda op: op.alter_column("files", "purpose", type_=sa.Text),
        lambda op: op.alter_column("files", "purpose", server_default="batch"),
        lambda op: op.create_index("files_by_size", "files", ["size_bytes"]),
        lambda op: op.drop_index("files_by_owner", "files"),
        lambda op: op.create_unique_constraint("one", "files", ["owner"]),
        lambda op: op.drop_table("files"),
        lambda op: op.rename_table("files", "sealed"),
        lambda op: op.execute("UPDATE files SET purpose = 'batch'"),
        lambda op: op.execute("ALTER TABLE files ADD COLUMN n INTEGER; DROP TABLE batches"),
    ]


@pytest.mark.parametrize("step", list_bad_steps(), ids=map(str, range(len(list_bad_steps()))))
def test_what_old_code_would_not_bear_is_found(step: Any) -> None:
    module = ModuleType("r0010_bad")

    def upgrade() -> None:
        from alembic import op  # noqa: PLC0415 - the one of the context that is entered

        step(op)

    module.upgrade = upgrade  # type: ignore[attr-defined]
    assert find_faults(read_statements(module)) != []


@pytest.mark.parametrize("path", sorted(STORE.glob("*.py")), ids=lambda path: path.stem)
def test_rows_are_read_by_the_names_of_their_columns(path: Path) -> None:
    # PostgreSQL refuses a prepared statement whose result has changed, as that of "*" does with each new column.
    assert re.findall(r"SELECT \*|\w\.\* FROM|SELECT \w+\.\*", path.read_text()) == []


FORMATS = {
    "0009": {
        "index": "2c617a125097ab22",
        "journal": "267156083b5bb102",
        "cut": "714be395373c1870",
    }
}
"""Revision of the schema -> digests of what is written from it on, where the bytes changed with it."""


def build_index() -> LineIndex:
    builder = IndexBuilder()
    for number in range(3000):
        hashes = (1 + number % 7, 1 + number % 70, *[0] * 6)
        facts = LineFacts(10, 20, f"m{number % 2}", 30 + number % 11, 4, hashes, number // 2, 0x21)
        builder.add(1000 * number, facts, b'"%d"' % number)
    return builder.build()


def write_journal() -> bytes:
    record = Record(1, Outcome.ANSWERED, 200, 2, Usage(3, 4, 5), 6, 7, b'{"a": 1}')
    return encode_header("batch", 3, {1: 2}, 4) + encode_header("batch", 3, {}) + encode_record(record)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def test_bytes_that_old_and_new_both_read_change_only_with_a_step_that_waits_for_the_old_ones() -> None:
    """Whoever changes a format writes the old one until then, or adds a migration of the kind "contract"."""
    last = max(FORMATS)
    assert load(next(VERSIONS.glob(f"r{last}_*.py"))).kind == "contract"
    index = build_index()
    cut = cut_lines(index, 5)
    assert all(isinstance(lines, array) for lines in cut)
    assert {
        "index": digest(index.encode()),
        "journal": digest(write_journal()),
        "cut": digest(repr([[*lines] for lines in cut]).encode()),
    } == FORMATS[last]
