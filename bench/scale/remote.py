"""The same batch with rows in SQLite and files on the disk, and with PostgreSQL and an object store, in turns."""

from bench.findings import BATCH_TIMEOUT_S, Findings, Setting, tell
from bench.postgres.server import PostgresServer
from bench.scale.seaweed import ObjectServer
from bench.whole_path import WholePath, measure_whole_path

__all__ = ["measure_remote"]

_REPEATS = 3


def measure_remote(setting: Setting, findings: Findings) -> None:
    """Both servers run beside it on the same machine, and take their share of the cores."""
    repeats = setting.count_repeats(_REPEATS)
    with (
        PostgresServer(parent=setting.folder.parent, is_durable=True) as rows,
        ObjectServer(setting.make_folder()) as objects,
    ):
        for number in range(repeats):
            settings = {name.replace(".", "__"): value for name, value in objects.settings().items()}
            settings["store__metadata"] = rows.make_database(f"remote-{number}")
            local, remote = _measure(setting, {}), _measure(setting, settings)
            findings.violations += [f"remote: {one}" for side in (local, remote) for one in side.violations]
            findings.add(
                remote_local_rps=local.rps,
                remote_rps=remote.rps,
                remote_local_cpu_s_per_1000=local.cpu_s_per_1000,
                remote_cpu_s_per_1000=remote.cpu_s_per_1000,
            )
            tell(
                f"rows and files elsewhere, run {number + 1} of {repeats}: {remote.rps:.0f} lines/s, on this machine "
                f"{local.rps:.0f}"
            )


def _measure(setting: Setting, settings: dict[str, str]) -> WholePath:
    return measure_whole_path(
        setting.make_folder(),
        setting.input_path,
        setting.lines,
        setting.concurrency,
        BATCH_TIMEOUT_S,
        settings=settings,
    )
