"""The measurements of pictures, small: they measure, and what is fetched is fetched once."""

from pathlib import Path

import pytest

from bench.findings import Findings, Setting
from bench.media.picture_batches import measure_data_urls, measure_fetches


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_pictures_are_measured(tmp_path: Path) -> None:
    setting, findings = Setting(tmp_path, tmp_path / "none", lines=1000, concurrency=8, repeats=1), Findings()
    measure_fetches(setting, findings)
    measure_data_urls(setting, findings)
    assert findings.violations == []
    assert findings.timings["image_fetches"] == [findings.facts["image_links"]] == [4]
    assert 0 <= findings.timings["image_idle_share"][0] < 1
    assert findings.timings["data_url_peak_mb"][0] > 0
