"""A client that uploads a file and costs next to nothing itself: the kernel sends the bytes.

Run as `python -m bench.send_file {multipart,put} URL PATH`; prints one JSON object. The clock runs from the connection
to the answer. `multipart` is one form with the file in it; `put` reserves the file's id first and puts the bytes to the
address that the server names, as Together's SDKs do.
"""

import argparse
import time
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import msgspec

__all__ = ["main"]

_TIMEOUT_S = 120
_BOUNDARY = "bench-boundary"
_PURPOSE = "batch-api"


def _render_form(name: str) -> tuple[bytes, bytes]:
    """What stands before and after the file in a form."""
    fields = {"purpose": _PURPOSE, "file_name": name}
    before = "".join(
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in fields.items()
    )
    before += (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return before.encode(), f"\r\n--{_BOUNDARY}--\r\n".encode()


def _send(method: str, url: str, path: Path, content_type: str, around: tuple[bytes, bytes] = (b"", b"")) -> bytes:
    before, after = around
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=_TIMEOUT_S)
    try:
        connection.putrequest(method, f"{parts.path}?{parts.query}" if parts.query else parts.path)
        connection.putheader("Content-Type", content_type)
        connection.putheader("Content-Length", str(len(before) + path.stat().st_size + len(after)))
        connection.endheaders()
        with path.open("rb") as file:
            connection.sock.sendall(before)
            connection.sock.sendfile(file)
            connection.sock.sendall(after)
        return _read(connection.getresponse(), 200)
    finally:
        connection.close()


def _read(response: HTTPResponse, expected: int) -> bytes:
    content = response.read()
    if response.status != expected:
        message = f"the server answered {response.status}: {content.decode(errors='replace')}"
        raise SystemExit(message)
    return content


def send_multipart(url: str, path: Path) -> str:
    """Upload in one form; the file's id."""
    content_type = f"multipart/form-data; boundary={_BOUNDARY}"
    answer = _send("POST", f"{url}/v1/files/upload", path, content_type, _render_form(path.name))
    return str(msgspec.json.decode(answer)["id"])


def send_put(url: str, path: Path) -> str:
    """Reserve an id and put the bytes where the server says; the file's id."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=_TIMEOUT_S)
    try:
        fields = urlencode({"purpose": _PURPOSE, "file_name": path.name, "file_type": "jsonl"})
        connection.request("POST", "/v1/files", fields, {"Content-Type": "application/x-www-form-urlencoded"})
        response = connection.getresponse()
        _read(response, 302)
        address, file_id = response.headers["Location"], response.headers["X-Together-File-Id"]
    finally:
        connection.close()
    _send("PUT", address, path, "application/octet-stream")
    return str(file_id)


def main() -> None:
    """Upload the file and print its id and how long that took."""
    parser = argparse.ArgumentParser(prog="python -m bench.send_file", description="Upload a file.")
    parser.add_argument("way", choices=("multipart", "put"))
    parser.add_argument("url", help="the server's base URL, without /v1")
    parser.add_argument("path", type=Path)
    options = parser.parse_args()
    send = send_multipart if options.way == "multipart" else send_put
    started = time.perf_counter()
    file_id = send(options.url, options.path)
    seconds = time.perf_counter() - started
    print(msgspec.json.encode({"file_id": file_id, "seconds": seconds}).decode())


if __name__ == "__main__":
    main()
