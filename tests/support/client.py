"""A patient client: it goes on asking after the server died, as a user's script would after a restart."""

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import httpx

__all__ = ["FINAL", "Client", "HasUrl"]

FINAL = {"COMPLETED", "FAILED", "CANCELLED", "EXPIRED"}
_POLL_S = 0.01
_TIMEOUT_S = 60.0
# Made once: it is never used, and reading the machine's certificates for each request costs more than the request.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class HasUrl(Protocol):
    """A server, or what stands for several."""

    @property
    def url(self) -> str:
        """Where the next request goes."""


class Client:
    """Together's dialect over plain HTTP, against whatever address the server has now."""

    def __init__(self, server: HasUrl, key: str = "") -> None:
        """`key`: the API key that goes with each request; empty: none."""
        self._server = server
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request; raises httpx.TransportError if the server dies over it."""
        with self._connect() as http:
            return http.request(method, path, **options)

    @contextmanager
    def stream(self, path: str) -> Iterator[httpx.Response]:
        """The answer to a GET, as it comes."""
        with self._connect() as http, http.stream("GET", path) as response:
            yield response

    def _connect(self) -> httpx.Client:
        server = self._server.url
        return httpx.Client(base_url=server, headers=self._headers, timeout=30, trust_env=False, verify=_NO_TLS)

    def upload(self, data: bytes) -> str:
        """Upload a batch file and give its id."""
        response = self.request(
            "POST", "/v1/files", data={"purpose": "batch-api"}, files={"file": ("input.jsonl", data)}
        )
        response.raise_for_status()
        return str(response.json()["id"])

    def create(self, file_id: str, endpoint: str = "/v1/chat/completions", **members: Any) -> str:
        """Create a batch and give its id."""
        body = {"endpoint": endpoint, "input_file_id": file_id} | members
        response = self.request("POST", "/v1/batches", json=body)
        response.raise_for_status()
        return str(response.json()["job"]["id"])

    def retrieve(self, batch_id: str) -> dict[str, Any]:
        """The batch as the server tells it."""
        response = self.request("GET", f"/v1/batches/{batch_id}")
        assert response.status_code != 404, response.text
        response.raise_for_status()
        found: dict[str, Any] = response.json()
        return found

    def wait_for_end(self, batch_id: str) -> dict[str, Any]:
        """The batch once it has ended; raises AssertionError if it does not."""
        deadline = time.monotonic() + _TIMEOUT_S
        while (batch := self.retrieve(batch_id))["status"] not in FINAL:
            assert time.monotonic() < deadline, batch
            time.sleep(_POLL_S)
        return batch

    def list_ids(self, what: str) -> list[str]:
        """The ids of all files or batches."""
        listed = self.request("GET", f"/v1/{what}").json()
        return [each["id"] for each in (listed["data"] if what == "files" else listed)]

    def download(self, file_id: str | None) -> list[bytes]:
        """The lines of a file; none if there is none."""
        if file_id is None:
            return []
        response = self.request("GET", f"/v1/files/{file_id}/content")
        response.raise_for_status()
        return response.content.splitlines()
