"""Stores of the tests' own: the local disk, and a real S3 server."""

from pathlib import Path

import pytest

from bench.scale.seaweed import ObjectServer
from tests.support.stores import DiskStore, ObjectStore, Store


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.scale)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Every place where bytes may lie; a third one is one line more."""
    if request.param == "disk":
        return DiskStore(tmp_path)
    return ObjectStore(request.getfixturevalue("object_server"), tmp_path)


@pytest.fixture
def object_store(object_server: ObjectServer, tmp_path: Path) -> ObjectStore:
    return ObjectStore(object_server, tmp_path)
