"""An index in the order in which turns are given, in place of one that left a part to be sorted."""

from alembic import op

revision = "0002"
down_revision = "0001"
kind = "contract"


def upgrade() -> None:
    """Make the new index and drop the one that it replaces."""
    op.create_index("batches_by_turn", "batches", ["state", "deadline_at_ms", "created_at_ms", "id"])
    op.drop_index("batches_by_state", "batches")
