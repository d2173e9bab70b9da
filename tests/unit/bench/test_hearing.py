"""The measurements of clips: words are counted as they should be, and the whole runs small."""

from pathlib import Path

import pytest

from bench.findings import Findings, Setting
from bench.media.hearing import measure_hearing, measure_long_clip
from bench.media.spoken_clips import count_found, make_clips, make_long_clip


def test_words_count_as_often_as_they_were_said() -> None:
    assert count_found("The train, the train!", "the train") == (2, 4)
    assert count_found("One two.", "two one two three") == (2, 2)
    assert count_found("Gone.", "") == (0, 1)


def test_clips_are_as_long_as_asked_for(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 8, (5.0, 30.0))
    assert all(clip.path.stat().st_size > 1000 for clip in clips)
    assert all(3.0 < clip.length_s < 32.0 for clip in clips)
    assert len({clip.text for clip in clips}) == 8
    assert make_long_clip(tmp_path, 45.0).length_s >= 45.0


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(600)
def test_the_measurements_run(tmp_path: Path) -> None:
    findings = Findings()
    setting = Setting(tmp_path, tmp_path / "input.jsonl", lines=20, concurrency=1, repeats=1)
    measure_hearing(setting, findings)
    measure_long_clip(setting, findings)
    assert findings.timings["clips_over_best_direct"][0] > 0
    assert findings.timings["clips_over_plain_script"][0] > 0
    assert findings.timings["clips_words_share"][0] > 0.8
    assert findings.timings["long_audio_words_share"][0] > 0.8
    assert findings.timings["long_audio_peak_mb"][0] > 100
