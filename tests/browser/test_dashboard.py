"""What a person does: drop a file, watch it, cancel, retry a group, log in and out. In a real browser."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Dialog, Page, expect

from bench.null.process import NullEngine
from tests.browser.conftest import Complaints, look_until
from tests.support.lines import marker_of, request_line
from tests.support.server_process import BackfillServer

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
VIEWPORTS = ({"width": 1280, "height": 900}, {"width": 390, "height": 844})


def write_file(folder: Path, count: int, name: str = "reviews.jsonl", text: str = "") -> Path:
    path = folder / name
    path.write_bytes(b"".join(request_line(number, custom_id=f"{text}{number}") + b"\n" for number in range(count)))
    return path


def start(page: Page, server: BackfillServer, path: Path, name: str = "") -> None:
    page.goto(f"{server.url}/dashboard/new")
    page.get_by_label("A JSONL file").set_input_files(path)
    page.get_by_label("Name, if you like").fill(name)
    page.get_by_role("button", name=re.compile("Start")).click()
    expect(page.get_by_role("heading", name=re.compile("^Batch "))).to_be_visible()


def test_a_file_is_dropped_started_and_watched_to_its_end(
    page: Page, server: BackfillServer, engine: NullEngine, tmp_path: Path
) -> None:
    engine.behave(hold=True)
    page.goto(server.url)
    page.get_by_role("link", name="Start a batch.").click()
    page.wait_for_load_state()
    content = write_file(tmp_path, 12).read_text()
    page.evaluate(
        """(content) => {
            const dropped = new DataTransfer();
            dropped.items.add(new File([content], "reviews.jsonl"));
            const form = document.querySelector("form[data-upload]");
            form.dispatchEvent(new DragEvent("dragover", {dataTransfer: dropped, cancelable: true}));
            form.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, cancelable: true}));
        }""",
        content,
    )
    expect(page.get_by_text("12 requests, for m")).to_be_visible()
    page.get_by_role("button", name="Start 12 requests").click()
    expect(page.get_by_text("0 of 12 done")).to_be_visible()
    address = page.url
    engine.behave(hold=False)
    # Without a reload.
    expect(page.get_by_text("12 of 12 done")).to_be_visible()
    expect(page.locator(".pipe .now")).to_contain_text("completed")
    assert page.url == address
    page.reload()
    with page.expect_download() as download:
        page.get_by_role("link", name="Answers").click()
    assert len(Path(download.value.path()).read_text().splitlines()) == 12


def test_bad_lines_are_told_before_anything_is_sent(page: Page, server: BackfillServer, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(request_line(0) + b'\n{"custom_id": "x"}\nnot json\n')
    page.goto(f"{server.url}/dashboard/new")
    page.get_by_label("A JSONL file").set_input_files(path)
    expect(page.get_by_text("This file cannot be run")).to_be_visible()
    expect(page.get_by_text("line 3:")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("Start"))).to_have_count(0)


def test_a_batch_is_cancelled_from_the_overview(
    page: Page, server: BackfillServer, engine: NullEngine, tmp_path: Path
) -> None:
    engine.behave(hold=True)
    start(page, server, write_file(tmp_path, 5), "to be cancelled")
    page.goto(server.url)
    asked: list[str] = []

    def agree(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.accept()

    page.on("dialog", agree)
    page.get_by_role("button", name="Cancel batch to be cancelled").click()
    expect(page.locator(".pipe .now")).to_contain_text(re.compile("cancell"))
    assert asked == ["Cancel this batch? What is finished is kept."]
    engine.behave(hold=False)
    expect(page.locator(".pipe .now")).to_contain_text("cancelled")


def test_a_group_of_failures_runs_again(page: Page, server: BackfillServer, engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(number): ["400"] for number in range(4)} | {marker_of(6): ["500"] * 5})
    start(page, server, write_file(tmp_path, 9))
    expect(page.locator(".pipe .now")).to_contain_text("completed")
    engine.behave(faults=None)
    page.get_by_role("button", name="Retry these 4").click()
    expect(page.get_by_text("4 of 4 done")).to_be_visible()
    assert not page.get_by_text("4 of 4 done, ").is_visible()


def test_whoever_logs_in_sees_what_is_his(
    page: Page, context: BrowserContext, server: BackfillServer, complaints: Complaints, tmp_path: Path
) -> None:
    page.goto(f"{server.url}/dashboard/keys")
    page.get_by_label("Name", exact=True).fill("ada")
    page.get_by_role("button", name="Make the key").click()
    key = page.locator("#secret").inner_text()
    # From now on a key is asked for.
    page.goto(server.url)
    expect(page.get_by_label("API key")).to_be_visible()
    page.get_by_label("API key").fill("of nobody")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("This key lets nobody in.")).to_be_visible()
    assert [complaint for complaint in complaints if "401" not in complaint] == []
    complaints.clear()
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Log in").click()
    start(page, server, write_file(tmp_path, 3), "of ada")
    own = page.url
    (cookie,) = context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    page.goto(own)
    expect(page.get_by_label("API key")).to_be_visible()


@pytest.mark.parametrize("viewport", VIEWPORTS, ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_content_is_text_on_every_page(
    page: Page, server: BackfillServer, engine: NullEngine, tmp_path: Path, viewport: dict[str, int], scheme: str
) -> None:
    engine.behave(faults={marker_of(1): ["400"]})
    body = {"model": HOSTILE, "messages": [{"role": HOSTILE, "content": f"marker-{marker_of(1)} {HOSTILE}"}]}
    path = tmp_path / f"{HOSTILE[:4]}.jsonl".replace("/", "")
    path.write_text(json.dumps({"custom_id": HOSTILE[:60], "body": body}) + "\n")
    page.set_viewport_size({"width": viewport["width"], "height": viewport["height"]})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    start(page, server, path, HOSTILE[:60])
    expect(page.locator(".pipe .now")).to_contain_text("completed")
    own = page.url
    for address in (server.url, f"{server.url}/dashboard/batches?text={HOSTILE[:20]}", own, f"{own}?custom_id=%3Cimg"):
        page.goto(address)
        assert page.locator("img").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_pages_work_without_scripts(browser, server: BackfillServer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{server.url}/dashboard/new")
    page.get_by_label("A JSONL file").set_input_files(write_file(tmp_path, 4))
    page.get_by_role("button", name="Upload and check").click()
    page.get_by_role("button", name="Start 4 requests").click()
    look_until(page, "4 of 4 done")
    context.close()


def test_a_hidden_page_asks_for_nothing(page: Page, server: BackfillServer) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with page.expect_request("**/dashboard/events**"):
        page.goto(server.url)
    page.evaluate(
        """() => {
            Object.defineProperty(document, "hidden", {value: true, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    asked.clear()
    with page.expect_request("**/dashboard/events**"):
        page.evaluate(
            """() => {
                Object.defineProperty(document, "hidden", {value: false, configurable: true});
                document.dispatchEvent(new Event("visibilitychange"));
            }"""
        )
    assert len(asked) == 1
