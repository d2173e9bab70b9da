"""Classifications behind shared system prompts: through Backfill, beside the same requests sent in the file's order."""

from bench.batch_run import run_batch
from bench.closed_loop_process import EngineMissingError
from bench.embedded_engines import SLOTS, Sides, describe_faults, open_sides, write_workload
from bench.findings import Findings, Setting, tell
from bench.workloads import make_classifications

__all__ = ["PREFIXES", "measure_prefixes"]

PREFIXES = (1, 4, 8)
_LINES = 256
_REPEATS = 2
# llama.cpp needs nothing to be switched off: its server holds nothing back.
_NAIVE = {"openvino": "openvino-naive", "llamacpp": "llamacpp"}


def measure_prefixes(setting: Setting, findings: Findings) -> None:
    """Each engine; one that cannot be had here is told of and left out."""
    for engine in SLOTS:
        try:
            with open_sides(setting, engine, _NAIVE[engine]) as sides:
                for number in range(setting.count_repeats(_REPEATS)):
                    for prefixes in PREFIXES:
                        _measure_turn(setting, findings, engine, sides, (number, prefixes))
        except EngineMissingError as error:
            tell(f"{engine}: left out: {error}")
            findings.facts[f"{engine}_left_out"] = str(error)


def _measure_turn(setting: Setting, findings: Findings, engine: str, sides: Sides, turn: tuple[int, int]) -> None:
    """Both sides once, in each repeat the other one first."""
    number, prefixes = turn
    # The engines are two processes with a cache each: the same file is new to both.
    bodies = make_classifications(engine, setting.scale(_LINES), prefixes, f"{engine} {number}")
    path = write_workload(setting, bodies)
    name = f"prefixes_{engine}_{prefixes}"
    for side in ("backfill", "naive") if number % 2 == 0 else ("naive", "backfill"):
        run = run_batch(sides.server, path) if side == "backfill" else sides.loop.run(path, SLOTS[engine])
        findings.violations += describe_faults(run, f"{name}, {side}")
        findings.add(**{f"{name}_{side}_lines_per_s": run.lines_per_s})
        tell(f"{engine}, {prefixes} prefixes, {side}: {run.lines_per_s:.1f} lines/s in {run.seconds:.1f} s")
