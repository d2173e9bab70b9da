"""Where rows and files are kept, if not in the data directory."""

from urllib.parse import SplitResult, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

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
    s3_endpoint: str = Field("", max_length=1024)
    """Where the object store is, if it is not Amazon's; empty: as AWS_ENDPOINT_URL says."""
    s3_region: str = ""
    """Empty: as AWS_REGION says."""
    s3_access_key_id: SecretStr | None = None
    """None: as AWS_ACCESS_KEY_ID says, or the role of the machine."""
    s3_secret_access_key: SecretStr | None = None
    s3_session_token: SecretStr | None = None
    s3_allow_http: bool = False
    """Whether the endpoint may be http, on which everybody between can read."""
    s3_cache_bytes: int = Field(2 * 1024**3, ge=0)
    """How much of what batches read is kept on the local disk meanwhile."""

    @property
    def is_remote(self) -> bool:
        """Whether rows and files lie where any machine reaches them, so that several may work on them."""
        return bool(self.metadata and self.blobs)

    @model_validator(mode="after")
    def _check_endpoint(self) -> "StoreConfig":
        if self.s3_endpoint and _split(self.s3_endpoint) is None:
            raise ValueError("s3_endpoint must be a URL")
        if self.s3_endpoint.startswith("http://") and not self.s3_allow_http:
            raise ValueError("an s3_endpoint that is http needs s3_allow_http")
        return self

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
