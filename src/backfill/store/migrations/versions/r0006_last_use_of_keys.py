"""When a key was used the last time."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
kind = "contract"


def upgrade() -> None:
    """Add the column."""
    op.add_column("api_keys", sa.Column("last_used_at_ms", sa.BigInteger))
