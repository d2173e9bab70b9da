"""docs/clients.md tells what the tests show, no less and no more."""

from pathlib import Path

import pytest

from tests.conformance.clients.table import Row, read_table, write_table

FOLDER = Path(__file__).parent


def names(rows: list[Row]) -> set[tuple[str, ...]]:
    return {row[:4] for row in rows}


def test_every_tested_client_is_in_the_table(collected_rows: list[Row]) -> None:
    assert names(collected_rows) - names(read_table()) == set(), "run `make clients`"


def test_every_client_in_the_table_has_a_test(request: pytest.FixtureRequest, collected_rows: list[Row]) -> None:
    collected = {item.path for item in request.session.items}
    if not set(FOLDER.glob("test_*_dialect.py")) <= collected:
        pytest.skip("not all clients' tests were collected")
    assert names(read_table()) - names(collected_rows) == set(), "run `make clients`"


def test_nothing_in_the_table_failed_but_in_the_client() -> None:
    results = {row.result for row in read_table()}
    assert {result for result in results if not result.startswith("fails in the client: ")} == {"passed"}


def test_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    page = tmp_path / "clients.md"
    page.write_text("before\n", encoding="utf-8")
    rows = [
        Row("a", "1", "Python", "x", "passed"),
        Row("a", "1", "Python", "y", "passed"),
        Row("b", "", "c", "x", "no"),
    ]
    for _ in range(2):
        write_table(rows, page)
    assert read_table(page) == rows
    assert page.read_text(encoding="utf-8").count("before") == 1
