"""Backfill as its next release will be: this source with more migrations, and code that uses what they make."""

import shutil
from pathlib import Path

import backfill
from tests.support.plain_process import PlainProcess
from tests.support.server_process import BackfillServer

__all__ = ["Release", "ReleaseServer", "make_contracting", "make_expanding"]

_EXPANSION = '''"""Which release took a slice, and a table of its own."""

import sqlalchemy as sa
from alembic import op

revision = "{number}"
down_revision = "{before}"
kind = "expand"


def upgrade() -> None:
    """Widen the table, and make one."""
    op.add_column("slices", sa.Column("taken_by_{number}", sa.String(8)))
    op.add_column("batches", sa.Column("noted_{number}", sa.Integer, nullable=False, server_default="7"))
    op.create_table("notes_{number}", sa.Column("id", sa.String(64), primary_key=True))
'''
_CONTRACTION = '''"""Nobody needs this any more."""

from alembic import op

revision = "{number}"
down_revision = "{before}"
kind = "contract"


def upgrade() -> None:
    """Drop it."""
    op.drop_index("batches_by_end", "batches")
'''


class Release:
    """A copy of the source in a folder of its own; `source` is what PYTHONPATH names."""

    def __init__(self, folder: Path) -> None:
        self.source = folder
        self._package = folder / "backfill"
        self.versions = self._package / "store" / "migrations" / "versions"
        """Where its migrations lie."""
        shutil.copytree(Path(backfill.__file__).parent, self._package, ignore=shutil.ignore_patterns("__pycache__"))

    def add_migration(self, name: str, text: str) -> None:
        """`name`: of its module."""
        (self.versions / f"{name}.py").write_text(text)

    def change(self, module: str, old: str, new: str) -> None:
        """Put something in the place of what is in this module once."""
        path = self._package / module
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {module}"
        path.write_text(text.replace(old, new))


class ReleaseServer(BackfillServer):
    """`backfill serve` of such a source."""

    def __init__(self, source: Path, data_dir: Path, engine_url: str | None = None, **settings: str) -> None:
        super().__init__(data_dir, engine_url, **settings)
        self._source = source

    def _spawn(self, command: list[str], environment: dict[str, str]) -> PlainProcess:
        return PlainProcess(command, environment, self._source)


def make_expanding(folder: Path, *numbers: str) -> Release:
    """A release with such steps more, each of which older code bears; it writes and reads what they make."""
    release = Release(folder)
    for number in numbers:
        before = f"{int(number) - 1:04}"
        release.add_migration(f"r{number}_next", _EXPANSION.format(number=number, before=before))
        release.change(
            "store/schema.py",
            '    Column("drained_as", Integer),\n',
            f'    Column("drained_as", Integer),\n    Column("taken_by_{number}", String(8)),\n',
        )
        release.change(
            "store/schema.py",
            '    Index("batches_by_owner", "owner", "created_at_ms"),\n',
            f'    Column("noted_{number}", Integer, nullable=False, server_default="7"),\n'
            f'    Index("batches_by_note_{number}", "noted_{number}"),\n'
            '    Index("batches_by_owner", "owner", "created_at_ms"),\n',
        )
        release.change(
            "store/schema.py",
            "secrets = Table(\n",
            f'notes_{number} = Table("notes_{number}", metadata, Column("id", String(64), primary_key=True))\n\n'
            "secrets = Table(\n",
        )
        release.change(
            "store/slice_claims.py",
            'until"), epoch=slices.c.epoch + 1)',
            f'until"), epoch=slices.c.epoch + 1).values(taken_by_{number}="{number}")',
        )
    return release


def make_contracting(folder: Path, number: str) -> Release:
    """A release with a step more that older code does not bear."""
    release = Release(folder)
    release.add_migration(f"r{number}_next", _CONTRACTION.format(number=number, before=f"{int(number) - 1:04}"))
    release.change(
        "store/schema.py", '    Index("batches_by_end", "ended_at_ms", "id", "owner", "created_at_ms"),\n', ""
    )
    return release
