"""Clients of OpenAI's dialect behind one face: each method is the call that a user of that client writes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conformance.clients.process import ClientProcess

__all__ = ["OpenAIClient", "OpenAINode", "OpenAIPython"]

CHAT = "/v1/chat/completions"


class OpenAIClient(ABC):
    """What a user does with files and batches; options are members of the request, by their names on the wire."""

    def upload(self, path: Path, **more: Any) -> Any:
        """The file."""
        return self._call("files.create", file={"path": str(path)}, purpose="batch", **more)

    def list_files(self, **query: Any) -> Any:
        """One page."""
        return self._call("files.list", **query)

    def collect_files(self, **query: Any) -> list[Any]:
        """All pages, as iterating over the list gives them."""
        return self._collect("files.list", **query)

    def retrieve_file(self, file_id: str) -> Any:
        """One file."""
        return self._call_with("files.retrieve", file_id)

    def wait_for_processing(self, file_id: str) -> Any:
        """The file, once it is processed."""
        return self._call_with("files.wait_for_processing", file_id)

    def download(self, file_id: str) -> str:
        """What is in the file."""
        content: str = self._call_with("files.content", file_id)
        return content

    def delete_file(self, file_id: str) -> Any:
        """What the server says about it."""
        return self._call_with("files.delete", file_id)

    def create(self, file_id: str, endpoint: str = CHAT, **more: Any) -> Any:
        """The new batch."""
        arguments = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
        return self._call("batches.create", **arguments | more)

    def retrieve(self, batch_id: str) -> Any:
        """One batch."""
        return self._call_with("batches.retrieve", batch_id)

    def list_batches(self, **query: Any) -> Any:
        """One page."""
        return self._call("batches.list", **query)

    def collect_batches(self, **query: Any) -> list[Any]:
        """All pages."""
        return self._collect("batches.list", **query)

    def cancel(self, batch_id: str) -> Any:
        """The batch that is being cancelled."""
        return self._call_with("batches.cancel", batch_id)

    def collect_models(self) -> list[Any]:
        """All that are served."""
        return self._collect("models.list")

    def retrieve_model(self, name: str) -> Any:
        """One of them."""
        return self._call_with("models.retrieve", name)

    @abstractmethod
    def _call(self, method: str, **arguments: Any) -> Any: ...

    @abstractmethod
    def _collect(self, method: str, **arguments: Any) -> list[Any]: ...

    @abstractmethod
    def _call_with(self, method: str, identifier: str) -> Any: ...


class OpenAIPython(OpenAIClient):
    """Python `openai`, sync or async."""

    def __init__(self, process: ClientProcess, class_name: str, options: Mapping[str, Any]) -> None:
        self._process = process
        self._request = {"class": class_name, "options": options}

    def _call(self, method: str, **arguments: Any) -> Any:
        return self._process.call(method, arguments=arguments, **self._request)

    def _collect(self, method: str, **arguments: Any) -> list[Any]:
        found: list[Any] = self._process.call(method, arguments=arguments, collect=True, **self._request)
        return found

    def _call_with(self, method: str, identifier: str) -> Any:
        parameter = {"batches": "batch_id", "models": "model"}.get(method.partition(".")[0], "file_id")
        if method == "files.wait_for_processing":
            parameter = "id"
        return self._call(method, **{parameter: identifier})


class OpenAINode(OpenAIClient):
    """npm `openai`."""

    def __init__(self, process: ClientProcess, options: Mapping[str, Any]) -> None:
        self._process = process
        self._options = options

    def _call(self, method: str, **arguments: Any) -> Any:
        return self._process.call(method, options=self._options, arguments=[arguments])

    def _collect(self, method: str, **arguments: Any) -> list[Any]:
        found: list[Any] = self._process.call(method, options=self._options, arguments=[arguments], collect=True)
        return found

    def _call_with(self, method: str, identifier: str) -> Any:
        method = method.replace("wait_for_processing", "waitForProcessing")
        return self._process.call(method, options=self._options, arguments=[identifier])
