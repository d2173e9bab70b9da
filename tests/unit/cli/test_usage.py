"""`backfill usage` at terminals of any width: labels stay, what one can do without goes, and unknown is not zero."""

import re
from typing import Any

import pytest

from backfill.cli.usage import _make_query, _render_csv
from backfill.cli.usage_table import draw_usage, name_amount, name_cost
from backfill.errors import InvalidInput

MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"


def make_row(**members: Any) -> dict[str, Any]:
    counted = ("requests", "answered", "failed", "input_tokens", "cached_tokens", "output_tokens")
    reused = ("reused_requests", "reused_input_tokens", "reused_output_tokens")
    money = {"list": "1234.5", "discount": "617.25", "paid": "617.25", "saved": "617.25000000000000006"}
    return dict.fromkeys(counted, 1_234_567) | dict.fromkeys(reused, 3) | money | {"unpriced_models": []} | members


def make_page(*rows: dict[str, Any], by: tuple[str, ...]) -> dict[str, Any]:
    return {
        "by": by,
        "currency": "usd",
        "data": list(rows),
        "total": make_row(unpriced_models=["b"])
        | {name: row[name] for row in rows for name in ("audio_seconds",) if name in row},
        "has_more": False,
    }


NONE = {"list": None, "discount": None, "paid": None, "saved": None, "unpriced_models": ["b"]}
PAGE = make_page(
    make_row(day="2026-11-26", model=MODEL), make_row(day="2026-11-26", model="b", **NONE), by=("day", "model")
)


@pytest.mark.parametrize("width", [200, 140, 100, 80, 60])
def test_the_table_keeps_to_the_terminal_and_its_labels(width: int) -> None:
    lines = list(draw_usage(PAGE, width))
    assert max(map(len, lines)) <= width
    assert lines[0].split()[:2] == ["day", "model"]
    assert "paid" in lines[0]
    assert ("discount" in lines[0]) == (width == 200)
    assert [line for line in lines if line.startswith("2026-11-26")]
    assert any("unknown" in line for line in lines)
    assert "$617.25 +?" in lines[-1]


@pytest.mark.parametrize("width", [200, 60])
def test_audio_has_a_column_where_there_is_any(width: int) -> None:
    heading, row, *_ = draw_usage(make_page(make_row(model="ear", audio_seconds=3600.5), by=("model",)), width)
    assert max(map(len, (heading, row))) <= width
    if width == 200:
        assert "audio s" in heading
        assert "3,600" in row.split()
    assert all("audio" not in line for line in draw_usage(make_page(make_row(audio_seconds=0.0), by=()), width))


@pytest.mark.parametrize("width", range(60, 120, 4))
def test_short_labels_cut_no_amount(width: int) -> None:
    heading, row, *_ = draw_usage(make_page(make_row(owner="ada"), by=("owner",)), width)
    assert len(row.split()) - 1 == len(re.split(r"\s{2,}", heading)) - 1
    assert {cell for cell in row.split() if cell.startswith("$")} <= {"$1,234.50", "$617.25"}


def test_without_savings_there_are_no_columns_of_them() -> None:
    row = make_row(model="a")
    for name in ("list", "discount", "saved"):
        del row[name]
    page = make_page(row, by=("model",)) | {"total": row}
    assert not {"list", "discount", "saved"} & set(next(draw_usage(page, 200)).split())


def test_the_total_stands_alone_where_nothing_was_used() -> None:
    lines = list(draw_usage(make_page(by=("day",)), 100))
    assert lines[-1].startswith("total")


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (None, "unknown"),
        ("0.00", "$0.00"),
        ("1234.5", "$1,234.50"),
        ("0.456", "$0.46"),
        ("0.0000123456", "$0.000012"),
        ("0.000000000000000001", "$0.000000000000"),
    ],
)
def test_amounts_are_written_to_two_digits_that_tell_something(amount: str | None, text: str) -> None:
    assert name_amount(amount, "usd") == text


def test_a_currency_without_a_sign_stands_behind() -> None:
    assert name_amount("3", "chf") == "3.00 CHF"


def test_a_batch_tells_its_cost_in_a_few_words() -> None:
    cost = {"currency": "usd", "list": "2", "discount": "1", "paid": "1", "saved": "1", "unpriced_models": []}
    assert name_cost(cost) == "$1.00 ($1.00 saved)"
    assert name_cost(cost | {"unpriced_models": ["b"]}) == "$1.00 ($1.00 saved), without b, of which no price is known"
    assert name_cost(cost | NONE) == "unknown, as no price of b is known"
    assert name_cost(cost | NONE | {"unpriced_models": []}) is None
    assert name_cost({"currency": "usd", "paid": "0.00", "unpriced_models": []}) == "$0.00"
    assert name_cost(None) is None


def test_csv_has_every_digit_and_leaves_empty_what_is_not_known() -> None:
    header, first, second = _render_csv(PAGE)
    facts = dict(zip(header.split(","), first.split(","), strict=True))
    assert (facts["day"], facts["saved"], facts["currency"]) == ("2026-11-26", "617.25000000000000006", "usd")
    facts = dict(zip(header.split(","), second.split(","), strict=True))
    assert (facts["paid"], facts["unpriced_models"]) == ("", "b")


def test_days_are_whole_and_the_last_one_is_meant_too() -> None:
    query = _make_query("day, model", "2026-11-01", "2026-11-02")
    assert query["by"] == "day,model"
    assert int(query["end_time"]) - int(query["start_time"]) == 2 * 86_400


@pytest.mark.parametrize("wrong", [("colour", None, None), ("day", "yesterday", None), ("day", None, "2026-13-01")])
def test_what_cannot_be_asked_is_told(wrong: tuple[str, str | None, str | None]) -> None:
    with pytest.raises(InvalidInput):
        _make_query(*wrong)
