"""Clients of Together's dialect behind one face: each method is the call that a user of that client writes."""

import json
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conformance.clients.process import ClientError, ClientProcess

__all__ = [
    "CommandLine",
    "Curl",
    "TogetherClient",
    "TogetherNode",
    "TogetherOne",
    "TogetherTwo",
]

CHAT = "/v1/chat/completions"
_TIMEOUT_S = 60


class TogetherClient(ABC):
    """What a user does with files and batches. Answers are the client's own objects as JSON has them."""

    @abstractmethod
    def upload(self, path: Path, *, check: bool = True) -> Any:
        """The file; without `check` the client shall not look into it first."""

    @abstractmethod
    def list_files(self) -> list[Any]:
        """All files."""

    @abstractmethod
    def retrieve_file(self, file_id: str) -> Any:
        """One file."""

    @abstractmethod
    def download(self, file_id: str) -> str:
        """What is in it."""

    @abstractmethod
    def delete_file(self, file_id: str) -> Any:
        """What the client says about it."""

    @abstractmethod
    def create(self, file_id: str, endpoint: str = CHAT) -> Any:
        """The new batch."""

    @abstractmethod
    def retrieve(self, batch_id: str) -> Any:
        """One batch."""

    @abstractmethod
    def list_batches(self) -> list[Any]:
        """All batches."""

    @abstractmethod
    def cancel(self, batch_id: str) -> Any:
        """The batch that is being cancelled."""


class TogetherOne(TogetherClient):
    """Python `together` 1.x. Its async client has batches only: files go through the other one, as a user's would."""

    def __init__(self, process: ClientProcess, class_name: str, **options: Any) -> None:
        self._process = process
        self._class_name = class_name
        self._options = options

    def upload(self, path: Path, *, check: bool = True) -> Any:
        arguments = {"file": {"path": str(path)}, "purpose": "batch-api", "check": check}
        return self._call("files.upload", "Together", **arguments)

    def list_files(self) -> list[Any]:
        listed: list[Any] = self._call("files.list")["data"]
        return listed

    def retrieve_file(self, file_id: str) -> Any:
        return self._call("files.retrieve", id=file_id)

    def download(self, file_id: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "content.jsonl"
            self._call("files.retrieve_content", "Together", id=file_id, output=str(path))
            return path.read_text(encoding="utf-8")

    def delete_file(self, file_id: str) -> Any:
        return self._call("files.delete", id=file_id)

    def create(self, file_id: str, endpoint: str = CHAT) -> Any:
        return self._call("batches.create_batch", file_id=file_id, endpoint=endpoint)

    def retrieve(self, batch_id: str) -> Any:
        return self._call("batches.get_batch", batch_job_id=batch_id)

    def list_batches(self) -> list[Any]:
        listed: list[Any] = self._call("batches.list_batches")
        return listed

    def cancel(self, batch_id: str) -> Any:
        return self._call("batches.cancel_batch", batch_job_id=batch_id)

    def _call(self, method: str, class_name: str | None = None, **arguments: Any) -> Any:
        request = {"class": class_name or self._class_name, "options": self._options, "arguments": arguments}
        return self._process.call(method, **request)


class TogetherTwo(TogetherClient):
    """Python `together` 2.x and 3.x, sync or async."""

    def __init__(self, process: ClientProcess, class_name: str, *, can_check: bool = True, **options: Any) -> None:
        self._process = process
        self._class_name = class_name
        # The check of early versions refuses every batch file.
        self._can_check = can_check
        self._options = options

    def upload(self, path: Path, *, check: bool = True) -> Any:
        unchecked = {} if check and self._can_check else {"check": False}
        return self._call("files.upload", file={"path": str(path)}, purpose="batch-api", **unchecked)

    def list_files(self) -> list[Any]:
        listed: list[Any] = self._call("files.list")["data"]
        return listed

    def retrieve_file(self, file_id: str) -> Any:
        return self._call("files.retrieve", id=file_id)

    def download(self, file_id: str) -> str:
        content: str = self._call("files.content", id=file_id)
        return content

    def delete_file(self, file_id: str) -> Any:
        return self._call("files.delete", id=file_id)

    def create(self, file_id: str, endpoint: str = CHAT) -> Any:
        created = self._call("batches.create", endpoint=endpoint, input_file_id=file_id)
        assert not created["warning"]
        return created["job"]

    def retrieve(self, batch_id: str) -> Any:
        return self._call("batches.retrieve", id=batch_id)

    def list_batches(self) -> list[Any]:
        listed: list[Any] = self._call("batches.list")
        return listed

    def cancel(self, batch_id: str) -> Any:
        return self._call("batches.cancel", id=batch_id)

    def _call(self, method: str, **arguments: Any) -> Any:
        request = {"class": self._class_name, "options": self._options, "arguments": arguments}
        return self._process.call(method, **request)


class TogetherNode(TogetherClient):
    """npm `together-ai`; with `by_form` it uploads by FormData and fetch, since its own upload fails on Node."""

    def __init__(self, process: ClientProcess, *, by_form: bool, **options: Any) -> None:
        self._process = process
        self._by_form = by_form
        self._options = options

    def upload(self, path: Path, *, check: bool = True) -> Any:
        if self._by_form:
            return self._call("form", str(path), "batch-api")
        # Its check refuses every batch file.
        return self._call("files.upload", str(path), "batch-api", False)

    def list_files(self) -> list[Any]:
        listed: list[Any] = self._call("files.list")["data"]
        return listed

    def retrieve_file(self, file_id: str) -> Any:
        return self._call("files.retrieve", file_id)

    def download(self, file_id: str) -> str:
        content: str = self._call("files.content", file_id)
        return content

    def delete_file(self, file_id: str) -> Any:
        return self._call("files.delete", file_id)

    def create(self, file_id: str, endpoint: str = CHAT) -> Any:
        return self._call("batches.create", {"input_file_id": file_id, "endpoint": endpoint})["job"]

    def retrieve(self, batch_id: str) -> Any:
        return self._call("batches.retrieve", batch_id)

    def list_batches(self) -> list[Any]:
        # What a user iterates over.
        listed: list[Any] = self._call("batches.list")
        return listed

    def cancel(self, batch_id: str) -> Any:
        return self._call("batches.cancel", batch_id)

    def _call(self, method: str, *arguments: Any) -> Any:
        return self._process.call(method, options=self._options, arguments=arguments)


class CommandLine(TogetherClient):
    """`tg`, which late 2.x and 3.x bring along."""

    def __init__(self, process: ClientProcess, environment: Mapping[str, str]) -> None:
        self._process = process
        self._environment = environment

    def upload(self, path: Path, *, check: bool = True) -> Any:
        more = () if check else ("--no-check",)
        return self._ask("files", "upload", str(path), "--purpose", "batch-api", *more)

    def list_files(self) -> list[Any]:
        listed: list[Any] = self._ask("files", "list")
        return listed

    def retrieve_file(self, file_id: str) -> Any:
        return self._ask("files", "retrieve", file_id)

    def download(self, file_id: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            saved = self._ask("files", "retrieve-content", file_id, "--output", folder)
            return Path(saved["path"]).read_text(encoding="utf-8")

    def delete_file(self, file_id: str) -> Any:
        return self._ask("files", "delete", file_id)

    def create(self, file_id: str, endpoint: str = CHAT) -> Any:
        submitted = self._ask("batches", "submit", file_id, endpoint.removeprefix("/v1/").replace("/", "."))
        return submitted.get("job", submitted)

    def retrieve(self, batch_id: str) -> Any:
        return self._ask("batches", "get", batch_id)

    def list_batches(self) -> list[Any]:
        listed: list[Any] = self._ask("batches", "list")
        return listed

    def cancel(self, batch_id: str) -> Any:
        return self._ask("batches", "cancel", batch_id)

    def run(self, *arguments: str) -> str:
        """What a command prints; raises ClientError if it ends with another code than 0."""
        return self._process.run(arguments, self._environment)

    def _ask(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))


class Curl(TogetherClient):
    """curl, as Together's guide has it."""

    def __init__(self, api: str, key: str) -> None:
        self._api = api
        self._key = key

    def upload(self, path: Path, *, check: bool = True) -> Any:
        return json.loads(self._ask("/files", "-F", "purpose=batch-api", "-F", f"file=@{path}"))

    def list_files(self) -> list[Any]:
        listed: list[Any] = json.loads(self._ask("/files"))["data"]
        return listed

    def retrieve_file(self, file_id: str) -> Any:
        return json.loads(self._ask(f"/files/{file_id}"))

    def download(self, file_id: str) -> str:
        return self._ask(f"/files/{file_id}/content")

    def delete_file(self, file_id: str) -> Any:
        return json.loads(self._ask(f"/files/{file_id}", "-X", "DELETE"))

    def create(self, file_id: str, endpoint: str = CHAT) -> Any:
        body = json.dumps({"input_file_id": file_id, "endpoint": endpoint})
        return json.loads(self._ask("/batches", "-H", "Content-Type: application/json", "-d", body))["job"]

    def retrieve(self, batch_id: str) -> Any:
        return json.loads(self._ask(f"/batches/{batch_id}"))

    def list_batches(self) -> list[Any]:
        listed: list[Any] = json.loads(self._ask("/batches"))
        return listed

    def cancel(self, batch_id: str) -> Any:
        return json.loads(self._ask(f"/batches/{batch_id}/cancel", "-X", "POST"))

    def _ask(self, path: str, *arguments: str) -> str:
        command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--write-out", "\n%{http_code}"]
        command += ["--header", f"Authorization: Bearer {self._key}", *arguments, self._api + path]
        printed = subprocess.run(command, capture_output=True, check=True, timeout=_TIMEOUT_S).stdout.decode()
        body, _, status = printed.rpartition("\n")
        if int(status) >= 400:
            error = json.loads(body)["error"]
            raise ClientError(error.pop("message"), status=int(status), **error)
        return body
