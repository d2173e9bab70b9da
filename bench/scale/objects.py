"""The same batch with its files and journal on the local disk and in an object store, in turns."""

from bench.findings import BATCH_TIMEOUT_S, Findings, Setting, tell
from bench.scale.seaweed import ObjectServer
from bench.whole_path import WholePath, measure_whole_path

__all__ = ["measure_objects"]

_REPEATS = 3
_KINDS = ("GET", "PUT", "LIST", "HEAD")


def measure_objects(setting: Setting, findings: Findings) -> None:
    """A real S3 server beside it on the same machine, which takes its share of the cores."""
    repeats = setting.count_repeats(_REPEATS)
    with ObjectServer(setting.make_folder()) as store:
        for number in range(repeats):
            tell(f"files in an object store, run {number + 1} of {repeats}")
            disk = _measure(setting, None)
            before = store.count_calls()
            settings = {name.replace(".", "__"): value for name, value in store.settings().items()}
            objects = _measure(setting, settings)
            calls = store.count_calls() - before
            findings.add(disk_rps=disk.rps, objects_rps=objects.rps, objects_to_disk=objects.rps / disk.rps)
            findings.add(disk_cpu_s_per_1000=disk.cpu_s_per_1000, objects_cpu_s_per_1000=objects.cpu_s_per_1000)
            findings.add(**{f"objects_{kind.lower()}s_per_1000": 1000 * calls[kind] / setting.lines for kind in _KINDS})
            findings.facts["objects_calls"] = dict(calls)
            findings.violations += [*disk.violations, *objects.violations]
            tell(f"  disk {disk.rps:.0f} requests/s, object store {objects.rps:.0f}; calls: {dict(calls)}")


def _measure(setting: Setting, settings: dict[str, str] | None) -> WholePath:
    return measure_whole_path(
        setting.make_folder(),
        setting.input_path,
        setting.lines,
        setting.concurrency,
        BATCH_TIMEOUT_S,
        settings=settings,
    )
