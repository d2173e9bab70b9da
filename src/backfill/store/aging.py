"""What is old enough to go: files and journals by their rows; and a file's row goes only if no batch reads it."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, or_, select

from backfill.batch import File, FileStatus, State
from backfill.purposes import OPAQUE_PURPOSES
from backfill.store.database import Database
from backfill.store.rows import to_file
from backfill.store.schema import batches, files

__all__ = ["Aging"]

_AT_ONCE = 500
_READ = select(batches.c.input_file_id).where(
    batches.c.state.in_([state for state in State if not state.is_final]),
    batches.c.input_file_id == bindparam("sought"),
)
_DELETE_UNREAD = files.delete().where(files.c.id == bindparam("sought"), ~_READ.exists())
_HAS_FILE = select(files.c.id).where(files.c.id == bindparam("sought"))
_IN_USE = select(batches.c.input_file_id).where(batches.c.state.in_([state for state in State if not state.is_final]))
_IS_OPAQUE = files.c.purpose.in_(OPAQUE_PURPOSES)
_IS_INPUT = or_(func.length(files.c.survey) > 0, _IS_OPAQUE)
# Which of them a batch's requests name or were made of stands in no row.
_AT_WORK = select(batches.c.owner).where(batches.c.state.in_([state for state in State if not state.is_final]))
_AGED = (
    select(files)
    .where(
        # What names its own time keeps it, and what has not come yet is no file.
        files.c.expires_at_ms.is_(None),
        files.c.status == FileStatus.SEALED,
        or_(
            and_(_IS_INPUT, files.c.created_at_ms <= bindparam("inputs_before")),
            and_(~_IS_INPUT, files.c.created_at_ms <= bindparam("outputs_before")),
        ),
        files.c.id.not_in(_IN_USE),
        or_(~_IS_OPAQUE, files.c.owner.not_in(_AT_WORK)),
    )
    .order_by(files.c.created_at_ms)
)
_ENDED = select(batches.c.id).where(
    batches.c.id.in_(bindparam("sought", expanding=True)), batches.c.ended_at_ms <= bindparam("ended_before")
)
_NEVER_MS = -1


class Aging:
    """The rows of one data directory."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def now_ms(self) -> int:
        """By the clock that all processes share."""
        return self._database.now_ms()

    async def find_files(self, inputs_before_ms: int | None, outputs_before_ms: int | None) -> list[File]:
        """Files without a time of their own that were made before then; None: none.

        Left out are those that an unended batch reads, and media and tables of owners who have such a batch.
        """
        values = {"inputs_before": inputs_before_ms or _NEVER_MS, "outputs_before": outputs_before_ms or _NEVER_MS}
        return [to_file(row) for row in await self._database.read(_AGED, values)]

    async def find_ended(self, batch_ids: Collection[str], ended_before_ms: int) -> list[str]:
        """Those of the batches that had ended by then."""
        sought, found = list(batch_ids), []
        for start in range(0, len(sought), _AT_ONCE):
            values: dict[str, Any] = {"sought": sought[start : start + _AT_ONCE], "ended_before": ended_before_ms}
            found += [row.id for row in await self._database.read(_ENDED, values)]
        return found

    async def delete_unread_file(self, file_id: str) -> bool:
        """Remove a file's row; False, and nothing is written, if a batch reads it that has not ended."""

        def delete(connection: Connection) -> bool:
            if connection.execute(_DELETE_UNREAD, {"sought": file_id}).rowcount == 1:
                return True
            return not self.has_file(connection, file_id)

        return await self._database.write(delete)

    @staticmethod
    def has_file(connection: Connection, file_id: str) -> bool:
        """Whether the file has a row, inside of a transaction."""
        return connection.execute(_HAS_FILE, {"sought": file_id}).first() is not None
