"""Each page, in light and dark, wide and narrow, as axe-core judges it (npm `axe-core`, Deque Systems)."""

import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from bench.null.process import NullEngine
from tests.support.lines import marker_of, request_line
from tests.support.server_process import BackfillServer

AXE = "axe-core@4.14.1"
ASK = "axe.run().then((found) => found.violations.map((each) => `${each.id}: ${each.nodes[0].html.slice(0, 200)}`))"


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    npm = shutil.which("npm")
    assert npm is not None, "npm is needed for axe-core"
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(
        [npm, "pack", "--silent", AXE], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    with tarfile.open(folder / done.stdout.split()[-1]) as packed:
        source = packed.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


def make_batches(server: BackfillServer, engine: NullEngine) -> tuple[str, str, str, str]:
    """The id of a batch that has ended, of one that runs, and of a file and a table that wait for their start."""
    engine.behave(faults={marker_of(1): ["400"], marker_of(2): ["500"] * 5})
    with httpx.Client(base_url=server.url) as client:

        def upload() -> str:
            lines = b"\n".join(request_line(number) for number in range(8))
            sent = client.post("/v1/files", data={"purpose": "batch-api"}, files={"file": ("a.jsonl", lines)})
            return str(sent.json()["id"])

        def create() -> str:
            wanted = {"endpoint": "/v1/chat/completions", "input_file_id": upload()}
            return str(client.post("/v1/batches", json=wanted).json()["job"]["id"])

        ended = create()
        engine.wait_for(lambda stats: stats["answered"] >= 6)
        while client.get(f"/together/v1/batches/{ended}").json()["status"] != "COMPLETED":
            pass
        engine.behave(hold=True, faults=None)
        running = create()
        table = {"file": ("a.csv", "id,text\n1,good\n2,\n")}
        table_id = client.post("/v1/files", data={"purpose": "table"}, files=table).json()["id"]
        return ended, running, upload(), table_id


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_shuts_anybody_out(
    browser: Browser, axe: str, server: BackfillServer, engine: NullEngine, scheme: str, width: int
) -> None:
    ended, running, file_id, table_id = make_batches(server, engine)
    # For axe, which comes from outside; the policy is seen to by the other tests.
    context = browser.new_context(bypass_csp=True, viewport={"width": width, "height": 900})
    page = context.new_page()
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    paths = ["/", "/dashboard/batches", f"/dashboard/batches/{ended}", f"/dashboard/batches/{running}"]
    paths += ["/dashboard/new", f"/dashboard/new/{file_id}", "/dashboard/keys", "/dashboard/nothing"]
    paths += [f"/dashboard/new/{table_id}"]
    found: list[Any] = []
    for path in paths:
        page.goto(server.url + path)
        expect(page.locator("h1")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        page.evaluate(axe)
        found += [f"{path} {each}" for each in page.evaluate(ASK)]
    # With what was written, and what it would ask.
    for prompt in ("Say: {txt}", "Say: {text}"):
        page.get_by_label("Prompt", exact=True).fill(prompt)
        expect(page.locator("#preview")).to_contain_text("Say:" if "text" in prompt else "did you mean")
        found += [f"{prompt} {each}" for each in page.evaluate(ASK)]
    context.close()
    assert found == []


def test_the_page_that_asks_for_a_key_shuts_nobody_out(
    browser: Browser, axe: str, engine: NullEngine, tmp_path: Path
) -> None:
    with BackfillServer(tmp_path / "keys", engine.url, server__api_keys='["a-key"]') as server:
        context = browser.new_context(bypass_csp=True)
        page = context.new_page()
        page.goto(server.url)
        expect(page.get_by_label("API key")).to_be_focused()
        page.evaluate(axe)
        assert page.evaluate(ASK) == []
        context.close()
