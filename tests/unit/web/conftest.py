"""The API in-process, over real rooms in a temporary folder."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from backfill.accounts import Keys, UsageBook, WebhookSecrets
from backfill.batch import Batch, Standing
from backfill.catalogue import Catalogue
from backfill.config import Config, load_config
from backfill.engines import Fleet
from backfill.intake import Intake, Retention
from backfill.live import LiveTraffic
from backfill.status import ServedModel
from backfill.store import ApiKeys, LocalBlobs, Metadata, UsageRecords
from backfill.turns import Turns
from backfill.web.api import Services, create_app


@dataclass
class Api:
    """One server and a client of it."""

    app: FastAPI
    client: httpx.AsyncClient
    services: Services

    async def upload(self, content: bytes, filename: str = "input.jsonl", **fields: str) -> dict[str, Any]:
        """Upload in one request, and give the file's id and the rest."""
        response = await self.client.post(
            "/v1/files", data={"purpose": "batch-api"} | fields, files={"file": (filename, content)}
        )
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def reserve(self, **fields: str) -> httpx.Response:
        """The metadata-only request."""
        facts = {"purpose": "batch-api", "file_name": "input.jsonl", "file_type": "jsonl"} | fields
        response = await self.client.post("/v1/files", data=facts)
        assert response.status_code == 302, response.text
        return response

    async def create_batch(self, file_id: str, **fields: object) -> dict[str, Any]:
        """A batch of an uploaded file."""
        body = {"endpoint": "/v1/chat/completions", "input_file_id": file_id} | fields
        response = await self.client.post("/v1/batches", json=body)
        assert response.status_code == 201, response.text
        job: dict[str, Any] = response.json()["job"]
        return job

    def list_blobs(self) -> list[str]:
        """Every file in the blob folder, half-written ones too."""
        root = self.services.config.data_dir / "blobs"
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


MakeApi = Callable[..., Awaitable[Api]]


async def _measure_row(batch: Batch) -> Standing:
    return Standing(batch.counts, batch.used)


async def _forecast_nothing(_: Batch) -> None:
    return None


async def _list_models() -> list[ServedModel]:
    return [ServedModel(name, ("/v1/chat/completions",)) for name in ("small-model", "large-model")]


def make_config(data_dir: Path, **overrides: object) -> Config:
    return load_config(environment={}, overrides={"data_dir": str(data_dir)} | overrides)


@pytest.fixture
async def make_api(tmp_path: Path) -> AsyncIterator[MakeApi]:
    opened: list[Any] = []

    async def make(*, services: dict[str, Any] | None = None, **overrides: object) -> Api:
        config = make_config(tmp_path, **overrides)
        blobs = LocalBlobs(tmp_path / "blobs")
        metadata = await Metadata.open(tmp_path / "backfill.db")
        opened.append(metadata.close)
        stored_keys = ApiKeys.open(metadata.database, tmp_path)
        intake = Intake(blobs, metadata, config.limits, media=config.media)
        wired = Services(
            find_webhook_secret=WebhookSecrets(metadata).find,
            config=config,
            blobs=blobs,
            metadata=metadata,
            keys=Keys(stored_keys, [key.get_secret_value() for key in config.server.api_keys]),
            intake=intake,
            turns=Turns(metadata, config.limits),
            measure=_measure_row,
            usage=UsageBook(UsageRecords(metadata.database), _measure_row),
            find_wait=lambda _: None,
            forecast=_forecast_nothing,
            foresee=_forecast_nothing,
            catalogue=Catalogue.load(),
            list_models=_list_models,
            live=LiveTraffic(Fleet([]), config.live),
            collect=Retention(intake, metadata, ages=config.retention).collect,
            list_replicas=lambda: (),
            signing_key=b"k" * 32,
        )
        wired = replace(wired, **(services or {}))
        app = create_app(wired)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
        opened.append(client.aclose)
        return Api(app, client, wired)

    yield make
    for close in reversed(opened):
        await close()


@pytest.fixture
async def api(make_api: MakeApi) -> Api:
    return await make_api()


@pytest.fixture
def content() -> bytes:
    """Two good requests; CR LF, a blank line and no line end at the end (trap 19)."""
    line = '{{"custom_id":"{}","body":{{"model":"small-model","messages":[{{"role":"user","content":"hi"}}]}}}}'
    return f"{line.format('a')}\r\n\r\n{line.format('b')}".encode()
