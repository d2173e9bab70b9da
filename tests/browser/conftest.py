"""A real browser, Chromium, in front of a real server. Nothing that a page asks for leaves this machine."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Route, expect, sync_playwright

from bench.null.process import NullEngine
from tests.support.server_process import BackfillServer

CHROMIUM = os.environ.get("BACKFILL_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where no Chromium or no npm is, these are left out by name; `make test-browser` demands them."""
    if (CHROMIUM is None or shutil.which("npm") is None) and not os.environ.get("BACKFILL_NEEDS_CHROMIUM"):
        left_out = [item for item in items if Path(__file__).parent in item.path.parents]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def look_until(page: Page, text: str) -> None:
    """Open the address of `page` anew until it says `text`, as somebody does whose browser runs no scripts.

    In a page of its own each time: a page that is reloaded while it still goes to another one, which a button
    pressed a moment ago began, refuses or loses what the button asked for.
    """
    expect(page.get_by_role("heading", name=re.compile("^Batch "))).to_be_visible()
    for _ in range(100):
        look = page.context.new_page()
        look.goto(page.url)
        is_there = look.get_by_text(text).is_visible()
        look.close()
        if is_there:
            return
    pytest.fail(f"{page.url} never said {text!r}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Closed with its file: while it is open an event loop runs in this thread, where no test can have its own."""
    assert CHROMIUM is not None, "there is no Chromium; `make test-browser` installs one"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class Complaints(list[str]):
    """What went wrong in the pages of one test: errors, and requests that would have left the machine."""


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    found = Complaints()
    yield found
    assert found == []


@pytest.fixture
def context(browser: Browser, complaints: Complaints) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})

    def guard(route: Route) -> None:
        if urlsplit(route.request.url).hostname == "127.0.0.1":
            route.continue_()
        else:
            complaints.append(f"asked for {route.request.url}")
            route.abort()

    def note(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            complaints.append(message.text)

    context.route("**/*", guard)
    context.on("console", note)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine() as running:
        yield running


@pytest.fixture(autouse=True)
def plain_engine(engine: NullEngine) -> Iterator[None]:
    yield
    engine.behave(hold=False, faults=None)


@pytest.fixture
def server(engine: NullEngine, tmp_path: Path) -> Iterator[BackfillServer]:
    with BackfillServer(tmp_path / "data", engine.url) as server:
        yield server
