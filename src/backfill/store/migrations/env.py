"""What Alembic runs: `store.metadata` hands over an open connection."""

from alembic import context

from backfill.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter a column in place; batch mode rebuilds the table, and does nothing special on Postgres.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
