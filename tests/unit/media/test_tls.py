"""Fetching over TLS, with a certificate authority of the test's own."""

import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backfill.media import MediaLibrary, MediaRefused
from bench.media.hostile_names import leading
from bench.media.hostile_server import HostileServer, respond
from tests.support.media import configure, picture, png


def run(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authority")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run(folder, "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority")
    run(folder, "req", *curve, "-keyout", "host.key", "-out", "host.csr", "-subj", "/CN=good.test")
    (folder / "names").write_text("subjectAltName=DNS:good.test,IP:127.0.0.1\n")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
    run(folder, "x509", "-req", "-in", "host.csr", "-out", "host.pem", "-days", "30", *signing)
    return folder


@pytest.fixture
async def secure_server(authority: Path) -> AsyncIterator[HostileServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "host.pem", authority / "host.key")
    async with HostileServer(context=context) as running:
        yield running


async def test_a_trusted_host_is_fetched_from(
    tmp_path: Path, authority: Path, secure_server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
    secure_server.replies["/a"] = respond(png())
    library = MediaLibrary(tmp_path, configure(allow_http=False))
    with leading():
        for host in ("127.0.0.1", "good.test"):
            await library.open(host, "owner").get(picture(secure_server.url("/a", host)))
        # The certificate is of other names.
        with pytest.raises(MediaRefused, match="has a certificate that is not trusted"):
            await library.open("batch", "owner").get(picture(secure_server.url("/a", "private-first.test")))
    await library.close()


async def test_an_unknown_authority_is_not_trusted(tmp_path: Path, secure_server: HostileServer) -> None:
    secure_server.replies["/a"] = respond(png())
    library = MediaLibrary(tmp_path, configure(allow_http=False))
    with pytest.raises(MediaRefused, match=r"has a certificate that is not trusted: .*issuer"):
        await library.open("batch", "owner").get(picture(secure_server.url("/a?secret=x")))
    await library.close()
    assert secure_server.asked == []


async def test_https_is_not_led_to_http(
    tmp_path: Path, authority: Path, secure_server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
    library = MediaLibrary(tmp_path, configure(allow_http=False))
    async with HostileServer() as plain:
        plain.replies["/a"] = respond(png())
        secure_server.replies["/a"] = respond(status=302, location=plain.url("/a"))
        with pytest.raises(MediaRefused, match=r"is redirected: .* only https: is"):
            await library.open("batch", "owner").get(picture(secure_server.url("/a")))
        await library.close()
        assert plain.connections == 0
