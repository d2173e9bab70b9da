"""The tables. A batch is one row and a file is one row, whatever the number of their lines; so is a key."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)

__all__ = ["api_keys", "batches", "files", "leases", "metadata", "secrets", "slices", "workers"]

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
    # Which key made it; what its models cost then; what was reserved for each; what each used, once it has ended.
    Column("key_id", String(64)),
    Column("prices", JSON, nullable=False, server_default="{}"),
    Column("reserved", JSON, nullable=False, server_default="{}"),
    Column("usage", JSON, nullable=False, server_default="[]"),
    # What its owner asked for beside that.
    Column("name", Text),
    Column("skips_invalid_lines", Boolean, nullable=False, server_default=false()),
    Column("paused_at_ms", BigInteger),
    Column("own_webhook_url", Text),
    Column("own_webhook_due_at_ms", BigInteger),
    Column("own_webhook_tries", Integer, nullable=False, server_default="0"),
    # Into how many slices it was cut when it was admitted; 0: it was not.
    Column("slices", Integer, nullable=False, server_default="0"),
    Index("batches_by_owner", "owner", "created_at_ms"),
    # In the order in which turns are given, so that the next one is found without looking at the others.
    Index("batches_by_turn", "state", "deadline_at_ms", "created_at_ms", "id"),
    # The same among those of one owner, whose higher priorities go first.
    Index("batches_by_owner_turn", "state", "owner", text("priority DESC"), "deadline_at_ms", "created_at_ms", "id"),
    # Rows without a key do not meet in it: NULL is unlike NULL.
    Index("batches_by_idempotency_key", "owner", "idempotency_key", unique=True),
    Index("batches_by_webhook", "webhook_due_at_ms"),
    Index("batches_by_own_webhook", "own_webhook_due_at_ms"),
    # What was used since some day is read from the rows of batches that ended since, and of no others.
    Index("batches_by_end", "ended_at_ms", "id", "owner", "created_at_ms"),
)

# Parts of large batches, for several processes to work on: the turn of each as a batch has one, and as how many-th of
# its batch it was drained.
slices = Table(
    "slices",
    metadata,
    Column("batch_id", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("holder", String(64)),
    Column("lease_until_ms", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("drained_as", Integer),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", String(16), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("limits", JSON, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("revoked_at_ms", BigInteger),
    Column("last_used_at_ms", BigInteger),
    Index("api_keys_by_digest", "digest", unique=True),
)

# What only one of several processes may do at a time, and which one does.
leases = Table(
    "leases",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("lease_until_ms", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
)

# The processes that have engines, as each tells of itself every few seconds.
workers = Table(
    "workers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("version", String(64), nullable=False),
    Column("started_at_ms", BigInteger, nullable=False),
    Column("seen_at_ms", BigInteger, nullable=False),
    Column("told", JSON, nullable=False),
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
