"""The found concurrency beside the best configured one: `bench.found_concurrency`, for the report."""

from dataclasses import replace

from bench.findings import Findings, Setting, tell
from bench.found_concurrency import CASES, FILLING, compare, seconds_to_fill

__all__ = ["measure_found"]

# Virtual time: the same seed always gives the same run.
_SEEDS = (1,)


def measure_found(setting: Setting, findings: Findings) -> None:  # noqa: ARG001 - nothing here runs on the machine
    """All cases."""
    least = []
    for name, case in CASES.items():
        runs = [compare(case, seed) for seed in _SEEDS]
        for run in runs:
            findings.add(**{f"found_{name}_ratio": run.ratio, f"found_{name}_settled_ratio": run.settled_ratio})
        least.append(min(run.ratio for run in runs))
        tell(f"found concurrency, {name}: {least[-1]:.3f} of the best fixed one")
    findings.add(found_least_ratio=min(least))
    for name, case in {
        "found_full_after_s": FILLING,
        "found_full_with_gauges_after_s": replace(FILLING, gauges="vllm"),
    }.items():
        for seed in _SEEDS:
            seconds = seconds_to_fill(case, seed)
            if seconds is not None:
                findings.add(**{name: seconds})
