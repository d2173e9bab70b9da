"""Large batches are cut into slices, of which each has a lease of its own; those that there are stay whole."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
kind = "contract"


def upgrade() -> None:
    """Make the table, and note of each batch that it was not cut."""
    op.create_table(
        "slices",
        sa.Column("batch_id", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("holder", sa.String(64)),
        sa.Column("lease_until_ms", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("drained_as", sa.Integer),
    )
    op.add_column("batches", sa.Column("slices", sa.Integer, nullable=False, server_default="0"))
