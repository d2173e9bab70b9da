"""Keys, and of each batch who made it, what it was promised to cost, what it reserves and what it used."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
kind = "contract"


def upgrade() -> None:
    """Make the table of keys and widen that of batches."""
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("limits", sa.JSON, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger),
        sa.Column("revoked_at_ms", sa.BigInteger),
    )
    op.create_index("api_keys_by_digest", "api_keys", ["digest"], unique=True)
    op.add_column("batches", sa.Column("key_id", sa.String(64)))
    op.add_column("batches", sa.Column("prices", sa.JSON, nullable=False, server_default="{}"))
    op.add_column("batches", sa.Column("reserved", sa.JSON, nullable=False, server_default="{}"))
    op.add_column("batches", sa.Column("usage", sa.JSON, nullable=False, server_default="[]"))
