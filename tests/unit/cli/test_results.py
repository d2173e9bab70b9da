from pathlib import Path

import pytest

from backfill.cli.results import name_errors_file
from backfill.errors import Conflict, InvalidInput, StoreUnavailable
from backfill.local import check_target, replacing


@pytest.mark.parametrize(
    ("output", "errors"),
    [
        ("answers.jsonl", "answers.errors.jsonl"),
        ("answers", "answers.errors.jsonl"),
        ("a.b.json", "a.b.json.errors.jsonl"),
    ],
)
def test_the_errors_stand_beside_the_output(output: str, errors: str) -> None:
    assert name_errors_file(Path("folder") / output) == Path("folder") / errors


def test_a_result_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with replacing(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")

    def write_and_fail() -> None:
        with replacing(target) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        write_and_fail()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_has_a_reason(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"Cannot write .*out: No space left"), replacing(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_targets_are_judged_before_the_work(tmp_path: Path) -> None:
    target = tmp_path / "out"
    check_target(target, force=False)
    target.write_bytes(b"")
    check_target(target, force=True)
    with pytest.raises(Conflict, match="exists already"):
        check_target(target, force=False)
    with pytest.raises(InvalidInput, match="not a regular file"):
        check_target(Path("/dev/null"), force=True)
    with pytest.raises(InvalidInput, match="does not exist"):
        check_target(tmp_path / "none" / "out", force=True)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="not a regular file"):
        check_target(tmp_path / "link", force=True)
