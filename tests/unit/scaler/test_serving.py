"""Which processes do not start, and what they say."""

from pathlib import Path
from typing import Any

import pytest

from backfill.config import load_config
from backfill.errors import InvalidConfig, StoreUnavailable
from backfill.scaler import RayCluster, serve_scaler
from backfill.server import serve

ON_RAY = {"far": {"url": "http://127.0.0.1:9", "place": "ray"}}


def load(folder: Path, role: str, engines: dict[str, Any]) -> Any:
    return load_config(environment={}, overrides={"data_dir": str(folder), "server.role": role, "engines": engines})


async def test_a_scaler_with_nothing_to_scale_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match='No engine has place = "ray"'):
        await serve_scaler(load(tmp_path, "scale", {"near": {"url": "http://127.0.0.1:9"}}), pytest.fail)


async def test_a_process_that_would_be_alone_does_not_start_beside_ray(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match='need processes with the roles "api" and "scale"'):
        await serve(load(tmp_path, "all", ON_RAY), pytest.fail)


async def test_a_worker_without_an_engine_of_its_own_says_who_starts_them(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="`backfill serve --role scale`, and by no other"):
        await serve(load(tmp_path, "work", ON_RAY), pytest.fail)


async def test_a_scaler_without_ray_ends_and_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def miss(cluster: RayCluster) -> None:
        raise InvalidConfig('Engines with place = "ray" need Ray: pip install "backfill[ray]".', param="engines")

    monkeypatch.setattr(RayCluster, "list", miss)
    with pytest.raises(InvalidConfig, match=r'pip install "backfill\[ray\]"'):
        await serve_scaler(load(tmp_path, "scale", ON_RAY), lambda: None)


async def test_one_whose_rows_and_files_lie_elsewhere_is_not_alone(tmp_path: Path) -> None:
    engines = {"near": {"url": "http://127.0.0.1:9"}} | ON_RAY
    store = {"store.metadata": "postgresql://me:hush@127.0.0.1:9/rows", "store.blobs": "s3://bucket/prefix"}
    overrides = {"data_dir": str(tmp_path), "server.port": 0, "engines": engines} | store
    with pytest.raises(StoreUnavailable):
        await serve(load_config(environment={}, overrides=overrides), pytest.fail)
