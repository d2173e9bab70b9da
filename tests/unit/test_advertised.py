"""Which address a process with engines tells the others."""

import socket
from pathlib import Path
from typing import Any

import pytest

from backfill.config import load_config
from backfill.errors import InvalidConfig
from backfill.server import find_address


def find(tmp_path: Path, host: str = "127.0.0.1", **settings: Any) -> tuple[str, int]:
    """The address, and the port that the process listens on."""
    overrides = {name.replace("__", "."): value for name, value in settings.items()}
    config = load_config(environment={}, overrides={"data_dir": str(tmp_path)} | overrides)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        return find_address(config, listener), listener.getsockname()[1]


@pytest.mark.parametrize(
    ("advertised", "told"),
    [
        ("gpu-1.internal", "http://gpu-1.internal:PORT"),
        ("10.0.0.7:8485", "http://10.0.0.7:8485"),
        ("[fd00::7]", "http://[fd00::7]:PORT"),
        ("[fd00::7]:8485", "http://[fd00::7]:8485"),
        ("https://gpu-1.example/", "https://gpu-1.example"),
        ("http://gpu-1:8080", "http://gpu-1:8080"),
        ("", "http://127.0.0.1:PORT"),
    ],
)
def test_what_the_settings_say(tmp_path: Path, advertised: str, told: str) -> None:
    found, port = find(tmp_path, server__advertise=advertised)
    assert found == told.replace("PORT", str(port))


@pytest.mark.parametrize("advertised", ["gpu 1", "ftp://gpu", "gpu:99999", "gpu:0", "http://gpu/path", "fd00::7"])
def test_what_is_no_address(tmp_path: Path, advertised: str) -> None:
    with pytest.raises(InvalidConfig, match=r"server\.advertise"):
        find(tmp_path, server__advertise=advertised)


def test_on_one_machine_it_is_loopback_wherever_it_listens(tmp_path: Path) -> None:
    found, port = find(tmp_path, "0.0.0.0")
    assert found == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(("database", "own"), [("127.0.0.3:5432", "127.0.0.1"), ("no-such-host.invalid", "127.0.0.1")])
def test_beside_other_machines_it_is_the_address_that_reaches_the_database(
    tmp_path: Path, database: str, own: str
) -> None:
    places = {"store__metadata": f"postgresql://u:p@{database}/d", "store__blobs": "s3://bucket"}
    found, port = find(tmp_path, "0.0.0.0", **places)
    assert found == f"http://{own}:{port}"


def test_of_several_addresses_the_one_towards_the_database_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Looking(socket.socket):
        def connect(self, place: Any) -> None:
            asked.append(place)

        def getsockname(self) -> Any:
            return ("10.1.2.3", 4) if asked else super().getsockname()

    places = {"store__metadata": "postgresql://u:p@127.0.0.3/d", "store__blobs": "s3://bucket"}
    overrides = {name.replace("__", "."): value for name, value in places.items()} | {"data_dir": str(tmp_path)}
    config = load_config(environment={}, overrides=overrides)
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(socket, "socket", Looking)
        assert find_address(config, listener) == f"http://10.1.2.3:{port}"
    assert asked == [("127.0.0.3", 1)]
