"""How long things are kept, and how much may be."""

from pydantic import Field

from backfill.config.sections import Section

__all__ = ["RetentionConfig"]


class RetentionConfig(Section):
    """Ages at which things go, in days; 0: they stay until somebody deletes them."""

    inputs_days: float = Field(0.0, ge=0)
    """Files that were uploaded without a time of their own, from their upload on."""
    outputs_days: float = Field(0.0, ge=0)
    """Output and error files of batches that asked for no time of their own, from the end of the batch on."""
    journals_days: float = Field(0.0, ge=0)
    """Journals of batches that have ended."""
    data_size_bytes: int = Field(0, ge=0)
    """What the data directory may hold; uploads are refused from 95 % of it on. 0: as much as the disk does."""
