"""Of each batch its name, whether it passes over invalid lines, since when it is paused, and where its end is told."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
kind = "contract"


def upgrade() -> None:
    """Widen the table of batches."""
    op.add_column("batches", sa.Column("name", sa.Text))
    op.add_column("batches", sa.Column("skips_invalid_lines", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("batches", sa.Column("paused_at_ms", sa.BigInteger))
    op.add_column("batches", sa.Column("own_webhook_url", sa.Text))
    op.add_column("batches", sa.Column("own_webhook_due_at_ms", sa.BigInteger))
    op.add_column("batches", sa.Column("own_webhook_tries", sa.Integer, nullable=False, server_default="0"))
    op.create_index("batches_by_own_webhook", "batches", ["own_webhook_due_at_ms"])
