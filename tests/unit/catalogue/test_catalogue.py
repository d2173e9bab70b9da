"""What the table that ships says, and what becomes of a user's own over it."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from backfill.batch import Price
from backfill.catalogue import Catalogue
from backfill.config import load_config
from backfill.errors import InvalidConfig

LLAMA = "meta-llama/Llama-3.3-70B-Instruct-Turbo"


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def write(text: str, **inline: Any) -> Catalogue:
        path = tmp_path / "models.toml"
        path.write_text(text, encoding="utf-8")
        config = load_config(environment={}, overrides={"catalogue": {"file": str(path), "models": inline}})
        return Catalogue.load(config.catalogue.file, config.catalogue.models)

    return write


def test_every_shipped_model_has_half_off_and_a_price_with_its_source_or_none() -> None:
    models = Catalogue.load().models
    assert len(models) == 18
    assert {model.price.discount_percent for model in models} == {50}
    unpriced = {model.id for model in models if model.price == Price(discount_percent=50)}
    assert unpriced == {
        "Qwen/Qwen3-235B-A22B-Thinking-2507",
        "Qwen/Qwen3-235B-A22B-fp8-tput",
        "deepseek-ai/DeepSeek-R1-0528-tput",
        "openai/whisper-large-v3",
    }
    for model in models:
        assert (model.price_date is not None) == bool(model.price_source) == (model.id not in unpriced)
        assert 0 not in (model.price.input_per_million, model.price.output_per_million)


def test_a_shipped_model_is_told_as_it_was_read() -> None:
    model = Catalogue.load().find(LLAMA)
    assert model is not None
    assert model.price == Price(1_040_000_000, None, 1_040_000_000, None, 50)
    assert (model.context_length, model.price_date, model.retired) == (131_072, date(2026, 11, 26), date(2026, 10, 22))


def test_any_other_model_has_no_known_price_and_no_discount() -> None:
    catalogue = Catalogue.load()
    assert catalogue.find("somebody/else") is None
    assert catalogue.price("somebody/else") == Price()
    assert catalogue.resolve("somebody/else") == "somebody/else"


def test_a_users_file_goes_over_the_shipped_one_member_by_member(load: Any) -> None:
    catalogue = load(f"""
        [models."{LLAMA}"]
        output_per_million = 0.000000001
        [models."own/model"]
        type = "embedding"
        aliases = ["ours", "ours-2"]
        input_per_million = 0
        discount_percent = 25
    """)
    llama = catalogue.find(LLAMA)
    assert llama.price == Price(1_040_000_000, None, 1, None, 50)
    assert (llama.price_source, llama.price_date) == ("", None), "whoever set the old price did not set this one"
    assert llama.context_length == 131_072
    assert catalogue.price("ours") == Price(input_per_million=0, discount_percent=25)
    assert catalogue.resolve("ours-2") == "own/model"
    assert len(catalogue.models) == 19


def test_settings_go_over_the_file(load: Any) -> None:
    catalogue = load("[models.m]\ninput_per_million = 1.1\noutput_per_million = 2", m={"input_per_million": 0.1})
    assert catalogue.price("m") == Price(input_per_million=100_000_000, output_per_million=2_000_000_000)


def test_a_price_is_read_to_its_last_digit(load: Any) -> None:
    assert load("[models.m]\ninput_per_million = 999999.999999999").price("m").input_per_million == 999999_999999999


@pytest.mark.parametrize(
    ("text", "told", "param"),
    [
        ("[models.m]\ninput_per_million = -1", "models.m.input_per_million: it must be at least 0", None),
        ('[models."o/m"]\ntype = 1', "is not valid at models.\"o/m\".type: it must be 'chat', ", None),
        ("[models.m]\ninput_per_million = 1e-10", "it must have at most 9 digits behind the point", None),
        # As a float it would be 0.1, and nobody would be told.
        ("[models.m]\ninput_per_million = 0.10000000000000000000001", "it must have at most 9 digits", None),
        ("[models.m]\noutput_per_million = nan", "it must be a finite number", None),
        ("[models.m]\noutput_per_million = 1e99999999", "it must be at most 1000000", None),
        ('[models.m]\nprice_date = "lately"', "it must be a date such as 2026-11-26", None),
        ('[models.m]\nendpoints = ["chat"]', "models.m.endpoints.0: it must match ^/", None),
        ("[models.m]\ndiscount = 1", "has an unknown key: models.m.discount; known there: aliases, audio_per_", None),
        ("[model.m]", "has an unknown key: model; known there: models", None),
        ('file = "x"', "must not name another file", "file"),
        ("[models", "is not valid TOML: ", None),
        ('[models.m]\naliases = ["n"]\n[models.n]', "alias 'n' of 'm' is not valid: it stands for 'n'", None),
        ('[models.m]\naliases = ["x"]\n[models.n]\naliases = ["x"]', "alias 'x' of 'n' is not valid", None),
    ],
)
def test_a_bad_file_is_told_with_the_key(load: Any, text: str, told: str, param: str | None) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(text)
    assert told in caught.value.message
    assert param is None or caught.value.param == param


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"nothing\.toml cannot be read: No such file or directory\.$"):
        Catalogue.load(tmp_path / "nothing.toml")
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# \xe9")
    with pytest.raises(InvalidConfig, match=r"is not valid TOML: byte 3 is not UTF-8\.$"):
        Catalogue.load(path)


def test_a_wrong_member_among_the_settings_is_told_with_those_that_are_known() -> None:
    with pytest.raises(InvalidConfig) as caught:
        load_config(environment={}, overrides={"catalogue": {"models": {"own/model": {"discount_percnt": 1}}}})
    assert caught.value.param == "catalogue.models.own/model.discount_percnt"
    assert caught.value.message.endswith("Did you mean 'discount_percent'?")
