"""Base URLs: every way in which a client of some version writes the same address."""

import pytest

from backfill.web.api.paths import find_route
from tests.unit.web.conftest import Api


@pytest.mark.parametrize("root", ["", "/v1", "/v1/v1", "/together", "/together/v1", "/together/v1/v1"])
@pytest.mark.parametrize("resource", ["/files", "/files/file-1/content", "/batches", "/batches/1/cancel", "/models"])
def test_every_root_leads_to_the_same_place(root: str, resource: str) -> None:
    assert find_route(root + resource).path == f"/v1{resource}"
    assert find_route(f"{root}{resource}/").path == f"/v1{resource}"


@pytest.mark.parametrize(
    "path", ["/v1/whoami", "/v3/whoami", "/v1/v3/whoami", "/whoami", "/together/v3/whoami", "/together/v1/v3/whoami"]
)
def test_whoami_under_every_name(path: str) -> None:
    """Trap 17."""
    assert find_route(path).path == "/v1/whoami"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("//v1/files", "/v1/files"),
        ("/v1//files//file-1", "/v1/files/file-1"),
        ("//openai/v1///batches/", "/v1/batches"),
        ("//health", "/health"),
        ("///", "/"),
    ],
)
def test_slashes_beside_slashes_count_once(path: str, found: str) -> None:
    assert find_route(path).path == found


@pytest.mark.parametrize(
    "path", ["/", "/health", "/v1", "/metrics", "/filesystem", "/v3/files", "/x/v1/files", "/v1/v1/v1/files"]
)
def test_other_paths_are_left_alone(path: str) -> None:
    assert find_route(path).path == path


async def test_aliases_are_answered_without_a_redirect(api: Api, content: bytes) -> None:
    file = await api.upload(content)
    for root in ("", "/v1", "/v1/v1", "/together/v1"):
        response = await api.client.get(f"{root}/files/{file['id']}")
        assert (response.status_code, response.json()["id"]) == (200, file["id"])
    response = await api.client.post("/files/", data={"purpose": "batch-api"}, files={"file": ("a.jsonl", content)})
    assert response.status_code == 200
