import pytest

from backfill.errors import InvalidInput
from backfill.tables import Template


@pytest.mark.parametrize(
    ("text", "columns", "filled"),
    [
        ("Classify: {text}", ("text",), "Classify: <text>"),
        ("{a}{b}{a}", ("a", "b", "a"), "<a><b><a>"),
        ('As JSON: {{"x": 1}} of {text}.', ("text",), 'As JSON: {"x": 1} of <text>.'),
        ("{my column, äöü: 3}", ("my column, äöü: 3",), "<my column, äöü: 3>"),
        ("{a}}b} and {c{{d}", ("a}b", "c{d"), "<a}b> and <c{d>"),
        ("{}", ("",), "<>"),
        ("nothing", (), "nothing"),
    ],
)
def test_a_template_is_text_with_places(text: str, columns: tuple[str, ...], filled: str) -> None:
    template = Template.parse(text)
    assert template.columns == columns
    assert template.fill([f"<{name}>" for name in columns]) == filled


def test_what_is_filled_in_is_not_looked_at_again() -> None:
    assert Template.parse("{a} {b}").fill(["{b}", "{{"]) == "{b} {{"


@pytest.mark.parametrize(
    ("text", "position"), [("ab {c", "character 4"), ("ab }", "character 4"), ("{a{b}", "character 3")]
)
def test_a_brace_without_its_partner_is_named_with_its_place(text: str, position: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Template.parse(text)
    assert position in caught.value.message
    assert "{{" in caught.value.message or "}}" in caught.value.message
