"""An index by which batches are found that ended since some day, for what they used."""

from alembic import op

revision = "0005"
down_revision = "0004"
kind = "contract"


def upgrade() -> None:
    """Make the index."""
    op.create_index("batches_by_end", "batches", ["ended_at_ms", "id", "owner", "created_at_ms"])
