"""Where rows and files are kept, if not in the data directory."""

from urllib.parse import SplitResult, urlsplit

from pydantic import Field, SecretStr, field_validator

from backfill.config.sections import Section

__all__ = ["StoreConfig"]

_METADATA_SCHEMES = ("postgresql", "postgres")


class StoreConfig(Section):
    """What several machines can share; without it everything lies in the data directory."""

    metadata: SecretStr | None = None
    """Rows: "postgresql://user:password@host/database"; None: SQLite in the data directory. Secret as a whole, since it
    holds a password."""
    blobs: str = Field("", max_length=1024)
    """Files and journals: "s3://bucket/prefix"; empty: folders of the data directory."""

    # What is wrong is never told by the value itself: there may be a password in it.

    @field_validator("metadata")
    @classmethod
    def _check_metadata(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        parts = _split(value.get_secret_value())
        if parts is None or parts.scheme not in _METADATA_SCHEMES or not parts.path.strip("/"):
            raise ValueError('must be a URL such as "postgresql://user:password@host/database"')
        return value

    @field_validator("blobs")
    @classmethod
    def _check_blobs(cls, value: str) -> str:
        parts = _split(value)
        if value and (parts is None or parts.scheme != "s3" or not parts.hostname or "@" in parts.netloc):
            raise ValueError('must be a URL such as "s3://bucket/prefix", without keys in it')
        return value


def _split(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:
        return None
