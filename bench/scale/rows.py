"""One server with rows in PostgreSQL beside one with SQLite: a large batch, on the null engine."""

from bench.findings import BATCH_TIMEOUT_S, Findings, Setting, tell
from bench.postgres.server import PostgresServer
from bench.whole_path import measure_whole_path

__all__ = ["measure_rows"]

_REPEATS = 3


def measure_rows(setting: Setting, findings: Findings) -> None:
    """Both sides one after the other, in each run."""
    repeats = setting.count_repeats(_REPEATS)
    with PostgresServer(parent=setting.folder.parent, is_durable=True) as server:
        for number in range(repeats):
            shared = {"store__metadata": server.make_database(f"rows-{number}")}
            sides = [
                measure_whole_path(
                    setting.make_folder(),
                    setting.input_path,
                    setting.lines,
                    setting.concurrency,
                    BATCH_TIMEOUT_S,
                    settings=settings,
                )
                for settings in ({}, shared)
            ]
            sqlite, postgres = sides
            findings.violations += [f"rows: {one}" for side in sides for one in side.violations]
            findings.add(
                rows_sqlite_rps=sqlite.rps,
                rows_postgres_rps=postgres.rps,
                rows_sqlite_cpu_s_per_1000=sqlite.cpu_s_per_1000,
                rows_postgres_cpu_s_per_1000=postgres.cpu_s_per_1000,
            )
            tell(
                f"rows, run {number + 1} of {repeats}: SQLite {sqlite.rps:.0f} lines/s, "
                f"PostgreSQL {postgres.rps:.0f} lines/s"
            )
