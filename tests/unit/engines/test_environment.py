"""A child gets what it runs by, and nothing that opens something."""

import pytest

from backfill.engines.environment import choose_environment


@pytest.mark.parametrize(
    "name",
    [
        "BACKFILL_SERVER__API_KEYS",
        "BACKFILL_CONFIG",
        "OPENAI_API_KEY",
        "TOGETHER_APIKEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "HF_TOKEN",
        "GITHUB_TOKEN",
        "PGPASSWORD",
        "DB_PASS",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "SSH_AUTH_SOCK",
        "my_secret",
    ],
)
def test_secrets_stay_here(name: str) -> None:
    assert choose_environment({name: "x"}) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PATH", "/usr/bin"),
        ("PYTHONPATH", "src"),
        ("LD_LIBRARY_PATH", "/usr/lib"),
        ("CUDA_VISIBLE_DEVICES", "0"),
        ("GOMP_SPINCOUNT", "300"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("KEYBOARD", "us"),
        ("HF_ENDPOINT", "http://mirror:80"),
        ("https_proxy", "http://ann:pw@proxy:3128"),
    ],
)
def test_what_it_runs_by_goes_along(name: str, value: str) -> None:
    assert choose_environment({name: value}) == {name: value}


def test_a_url_with_a_password_is_a_secret() -> None:
    assert choose_environment({"DATABASE_URL": "postgres://ann:pw@db/x", "URL": "http://db:80/a@b"}) == {
        "URL": "http://db:80/a@b"
    }


def test_what_is_kept_stays_but_for_our_own() -> None:
    kept = ("HF_", "BACKFILL_")
    assert choose_environment({"HF_TOKEN": "x", "GH_TOKEN": "x", "BACKFILL_KEY": "x"}, kept) == {"HF_TOKEN": "x"}
