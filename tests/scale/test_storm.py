"""Parts of several machines are killed at random while batches run: each line is in the results once."""

from pathlib import Path

import pytest

from bench.findings import Findings, Setting
from bench.scale.ray_nodes import find_ray
from bench.scale.storm import measure_storm


@pytest.mark.scale
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_storm_loses_doubles_and_repeats_nothing(tmp_path: Path) -> None:
    if find_ray() is None:
        pytest.skip("Ray is not installed: pip install -r requirements/dev.txt")
    findings = Findings()
    # Of 20,000 lines and 20 kills so many: 600 and 4.
    measure_storm(Setting(tmp_path, tmp_path / "none", 1500, 16, seed=3), findings)
    assert findings.violations == []
    assert findings.timings["storm_lost"] == [0]
    assert findings.timings["storm_doubled"] == [0]
    assert findings.timings["storm_redone_finished"] == [0]
    assert findings.facts["storm_watched"] == 600
