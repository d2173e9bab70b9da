"""Files, batches and secrets."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
kind = "contract"


def upgrade() -> None:
    """Create the first tables."""
    _create_files()
    _create_batches()
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )


def _create_files() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("line_count", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger),
        sa.Column("survey", sa.LargeBinary, nullable=False),
    )
    op.create_index("files_by_owner", "files", ["owner", "created_at_ms"])


def _create_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("input_file_id", sa.String(64), nullable=False),
        sa.Column("input_size_bytes", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("deadline_at_ms", sa.BigInteger, nullable=False),
        sa.Column("dialect", sa.String(16), nullable=False),
        sa.Column("completion_window", sa.String(16), nullable=False),
        sa.Column("model_id", sa.Text),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("metadata", sa.JSON),
        sa.Column("output_expires_after_s", sa.BigInteger),
        sa.Column("started_at_ms", sa.BigInteger),
        sa.Column("closing_at_ms", sa.BigInteger),
        sa.Column("ended_at_ms", sa.BigInteger),
        sa.Column("output_file_id", sa.String(64)),
        sa.Column("error_file_id", sa.String(64)),
        sa.Column("problems", sa.JSON, nullable=False),
        sa.Column("problem_count", sa.BigInteger, nullable=False),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.Column("holder", sa.String(64)),
        sa.Column("lease_until_ms", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("request_digest", sa.String(64), nullable=False),
        sa.Column("webhook_due_at_ms", sa.BigInteger),
        sa.Column("webhook_tries", sa.Integer, nullable=False),
    )
    op.create_index("batches_by_owner", "batches", ["owner", "created_at_ms"])
    op.create_index("batches_by_state", "batches", ["state", "deadline_at_ms"])
    op.create_index("batches_by_idempotency_key", "batches", ["owner", "idempotency_key"], unique=True)
    op.create_index("batches_by_webhook", "batches", ["webhook_due_at_ms"])
