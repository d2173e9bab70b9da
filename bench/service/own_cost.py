"""What the service itself costs: a request beside a bare loop, small batches beside a large one, the next turn."""

from bench.findings import Findings, Setting
from bench.many_batches import measure_many
from bench.server_cost import measure_batches

__all__ = ["measure_own_cost"]


def measure_own_cost(setting: Setting, findings: Findings) -> None:
    """As the parts `batches` and `many` do it, where these have not in the same run."""
    if "null_engine_rps" not in findings.timings:
        measure_batches(setting, findings)
    if "many_s" not in findings.timings:
        measure_many(setting, findings)
