"""An index by which the next turn of each owner is found without looking at the others'."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
kind = "contract"


def upgrade() -> None:
    """Make the index."""
    op.create_index(
        "batches_by_owner_turn",
        "batches",
        ["state", "owner", sa.text("priority DESC"), "deadline_at_ms", "created_at_ms", "id"],
    )
