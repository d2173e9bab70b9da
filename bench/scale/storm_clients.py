"""Clients that carry on as the SDKs do while what answers them is killed: each request is sent until it is answered."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec

from bench.exactness import read_custom_ids
from bench.input_file import make_custom_id, make_line

__all__ = ["Job", "PatientClient", "TooLateError", "run_job"]

_PAUSE_S = 0.2
_POLL_S = 0.3
_READ_TIMEOUT_S = 60.0
_FINAL = frozenset({"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"})
# What OpenAI's and Together's SDKs send again by themselves, beside all of 500 and more.
_AGAIN = frozenset({408, 409, 429})


class TooLateError(Exception):
    """The time that all have together is over."""


@dataclass
class Job:
    """One batch of a client's, and what came of it."""

    first: int
    """The number of its first line; no two jobs have a line in common."""
    lines: int
    follows: bool
    """It reads the results before the end, instead of asking how far the batch is."""
    status: str = "never created"
    output: list[str] = field(default_factory=list)
    """Custom ids of the output file."""
    errors: list[str] = field(default_factory=list)
    followed: list[str] = field(default_factory=list)
    """Custom ids of the results that were read before the end."""
    failure: str = ""
    """Why its client gave up; empty if it did not."""

    @property
    def custom_ids(self) -> list[str]:
        """Those of its input, in order."""
        return [make_custom_id(line) for line in range(self.first, self.first + self.lines)]

    @property
    def content(self) -> bytes:
        """Its input file."""
        return b"".join(make_line(line) for line in range(self.first, self.first + self.lines))


class PatientClient:
    """For one thread; `close` it."""

    def __init__(self, find_urls: Callable[[], Sequence[str]], deadline_s: float) -> None:
        """`find_urls`: where processes that answer are now. `deadline_s`: on the monotonic clock."""
        self._find_urls = find_urls
        self._turns = itertools.count(threading.get_ident())
        self._deadline_s = deadline_s
        self._http = httpx.Client(timeout=httpx.Timeout(30, read=_READ_TIMEOUT_S), trust_env=False, verify=False)
        self.retries = 0
        """How many answers it did not get, or not whole."""

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer, from whichever process gives one; raises TooLateError, or RuntimeError if it is refused."""
        while True:
            try:
                answer = self._http.request(method, self._choose_url() + path, **options)
            except httpx.TransportError:
                self.pause()
                continue
            if answer.is_success:
                return answer
            if answer.status_code < 500 and answer.status_code not in _AGAIN:
                message = f"{method} {path} answered {answer.status_code}: {answer.text}"
                raise RuntimeError(message)
            self.pause()

    def follow(self, batch_id: str) -> list[str]:
        """The custom ids of all results in the order in which they came, going on where a stream broke off."""
        content = b""
        while True:
            content = content[: content.rfind(b"\n") + 1]
            url = f"{self._choose_url()}/v1/batches/{batch_id}/results"
            try:
                with self._http.stream("GET", url, params={"after": content.count(b"\n")}) as answer:
                    if answer.status_code == 200:
                        for piece in answer.iter_bytes():
                            content += piece
                        return read_custom_ids(content)
            except httpx.TransportError:
                pass
            self.pause()

    def pause(self) -> None:
        """Before the next try; raises TooLateError."""
        self.retries += 1
        self.wait(_PAUSE_S)

    def wait(self, seconds: float) -> None:
        """Raises TooLateError."""
        if time.monotonic() > self._deadline_s:
            raise TooLateError
        time.sleep(seconds)

    def _choose_url(self) -> str:
        urls = self._find_urls()
        return urls[next(self._turns) % len(urls)]


def run_job(client: PatientClient, job: Job, tell_created: Callable[[str, Job], None]) -> None:
    """From the upload to the files; what it came to stands in the job. `tell_created` gets the batch's id."""
    try:
        form: dict[str, Any] = {"data": {"purpose": "batch-api"}, "files": {"file": ("input.jsonl", job.content)}}
        file_id = client.ask("POST", "/v1/files", **form).json()["id"]
        body = {"endpoint": "/v1/chat/completions", "input_file_id": file_id}
        key = {"idempotency-key": f"storm-{job.first}"}
        batch_id = str(client.ask("POST", "/v1/batches", json=body, headers=key).json()["job"]["id"])
        tell_created(batch_id, job)
        if job.follows:
            job.followed = client.follow(batch_id)
        while (batch := client.ask("GET", f"/v1/batches/{batch_id}").json())["status"] not in _FINAL:
            job.status = batch["status"]
            client.wait(_POLL_S)
        job.status = batch["status"]
        job.output = _download(client, batch["output_file_id"])
        job.errors = _download(client, batch["error_file_id"])
    except TooLateError:
        job.failure = f"the batch of lines {job.first} and on has not ended: {job.status}"
    except (RuntimeError, msgspec.DecodeError, ValueError, KeyError) as error:
        job.failure = f"the batch of lines {job.first} and on: {error!r}"


def _download(client: PatientClient, file_id: str | None) -> list[str]:
    return read_custom_ids(client.ask("GET", f"/v1/files/{file_id}/content").content) if file_id else []
