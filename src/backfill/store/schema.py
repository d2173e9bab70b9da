"""The tables. A batch is one row and a file is one row, whatever the number of their lines."""

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text

__all__ = ["batches", "files", "metadata", "secrets"]

metadata = MetaData()

files = Table(
    "files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("line_count", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("survey", LargeBinary, nullable=False),
    Index("files_by_owner", "owner", "created_at_ms"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("input_file_id", String(64), nullable=False),
    Column("input_size_bytes", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("deadline_at_ms", BigInteger, nullable=False),
    Column("dialect", String(16), nullable=False),
    Column("completion_window", String(16), nullable=False),
    Column("model_id", Text),
    Column("priority", Integer, nullable=False),
    Column("metadata", JSON),
    Column("output_expires_after_s", BigInteger),
    Column("started_at_ms", BigInteger),
    Column("closing_at_ms", BigInteger),
    Column("ended_at_ms", BigInteger),
    Column("output_file_id", String(64)),
    Column("error_file_id", String(64)),
    Column("problems", JSON, nullable=False),
    Column("problem_count", BigInteger, nullable=False),
    Column("counts", JSON, nullable=False),
    # The turn: who works on the batch, until when, and how often one was taken (the fence).
    Column("holder", String(64)),
    Column("lease_until_ms", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("idempotency_key", String(255)),
    Column("request_digest", String(64), nullable=False),
    Column("webhook_due_at_ms", BigInteger),
    Column("webhook_tries", Integer, nullable=False),
    Index("batches_by_owner", "owner", "created_at_ms"),
    Index("batches_by_state", "state", "deadline_at_ms"),
    # Rows without a key do not meet in it: NULL is unlike NULL.
    Index("batches_by_idempotency_key", "owner", "idempotency_key", unique=True),
    Index("batches_by_webhook", "webhook_due_at_ms"),
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
