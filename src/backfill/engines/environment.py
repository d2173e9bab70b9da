"""What of our environment a child process gets: what it runs by, and nothing that opens something."""

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["choose_environment"]

_OUR_OWN: Final = "BACKFILL_"
# As whole words: TOKENIZERS_PARALLELISM and KEYBOARD open nothing.
_SECRET_NAME: Final = re.compile(
    r"(?<![A-Z0-9])(APIKEY|ACCESSKEY|AUTH|CREDENTIALS?|KEYS?|PASS|PASSPHRASE|PASSWD|PASSWORD|PAT|PGPASSWORD|SECRETS?"
    r"|TOKENS?)(?![A-Z0-9])",
    re.IGNORECASE,
)
_PASSWORD_IN_URL: Final = re.compile(r"://[^/@\s]*:[^/@\s]+@")
_PROXY: Final = "_PROXY"


def choose_environment(environment: Mapping[str, str], kept: tuple[str, ...] = ()) -> dict[str, str]:
    """The variables without our own settings, keys, tokens, passwords, and URLs with a password inside.

    Names that begin with one of `kept` stay whatever they are, but for our own; proxies do too.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(_OUR_OWN)
        and (name.startswith(kept) or name.upper().endswith(_PROXY) or not _opens_something(name, value))
    }


def _opens_something(name: str, value: str) -> bool:
    words = name.replace("_", " ")
    return _SECRET_NAME.search(words) is not None or _PASSWORD_IN_URL.search(value) is not None
