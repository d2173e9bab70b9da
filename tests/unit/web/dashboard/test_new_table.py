"""A batch of a table, made on a page: with and without scripts, and nothing that a column's name brings with it."""

import csv
import io
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.null.process import NullEngine
from tests.support.rooms import OWNER, wait_for_batch
from tests.unit.web.dashboard.conftest import ROOT, Browser, open_pages, read_fields

HOSTILE = "<script>alert(1)</script>"


async def drop(browser: Browser, content: bytes, name: str = "reviews.csv") -> httpx.Response:
    page = await browser.see(f"{ROOT}/new")
    return await browser.client.post(
        f"{ROOT}/new",
        data=read_fields(page, f"{ROOT}/new"),
        files={"file": (name, content)},
        headers={"accept": "application/json"},
    )


async def fill(browser: Browser, path: str, **written: str) -> dict[str, str]:
    """The form of a table, with what was written into it."""
    fields = read_fields(await browser.see(path), path)
    return {name: fields[name] for name in ("token", "once")} | {"endpoint": "/v1/chat/completions"} | written


async def test_a_table_is_shown_previewed_and_started_once(engine: NullEngine, tmp_path: Path) -> None:
    async with open_pages(tmp_path, engine) as (rooms, browser):
        path = (await drop(browser, b"id;text\n7;good\n8;bad\n")).json()["path"]
        page = await browser.see(path)
        assert "2 rows" in page
        assert "cells are separated by semicolons" in page
        assert "{text}" in page
        form = await fill(
            browser, path, prompt="Say: {text}", system="Be short.", id_column="id", model="m", name="mine"
        )
        shown = await browser.client.post(f"{path}/preview", data=form, headers={"accept": "application/json"})
        assert shown.json()["state"] == "2 requests would be made"
        assert "Say: good" in shown.json()["html"]
        assert "Be short." in shown.json()["html"]
        assert "Tokens in, about" in shown.json()["html"]
        answers = [await browser.client.post(path, data=form) for _ in range(2)]
        assert str(answers[0].url) == str(answers[1].url)
        made = await wait_for_batch(rooms, str(answers[0].url).rpartition("/")[2])
        assert (made.name, made.counts.answered, made.model_id) == ("mine", 2, "m")
        # The second press left nothing behind.
        files = await rooms.metadata.list_files(OWNER, limit=10, purpose="batch-api")
        assert len([file for file in files if file.survey]) == 1
        own = await browser.see(f"{ROOT}/batches/{made.id}")
        assert "The table it was made of" in own
        sent = await browser.client.get(f"{ROOT}/batches/{made.id}/results.csv")
        assert sent.headers["content-disposition"] == 'attachment; filename="mine.csv"'
        rows = list(csv.DictReader(io.StringIO(sent.text), delimiter=";"))
        assert [(row["id"], row["text"], row["_error"]) for row in rows] == [("7", "good", ""), ("8", "bad", "")]
        parquet = await browser.client.get(f"{ROOT}/batches/{made.id}/results.parquet")
        assert parquet.content[:4] == parquet.content[-4:] == b"PAR1"


async def test_what_is_wrong_is_told_and_what_was_written_kept(engine: NullEngine, tmp_path: Path) -> None:
    async with open_pages(tmp_path, engine) as (rooms, browser):
        path = (await drop(browser, b"id,text\n1,good\n,bad\n")).json()["path"]
        form = await fill(browser, path, prompt="Say: {txet}", model="m", window="2h", limit="")
        for target in (f"{path}/preview", path):
            answer = await browser.client.post(target, data=form)
            assert "did you mean &#39;text&#39;?" in answer.text
            assert "Say: {txet}" in answer.text
            assert 'value="2h"' in answer.text
        assert await rooms.metadata.list_batches(OWNER, limit=10) == []
        for wrong, told in (
            ({"columns": "a:floot"}, "unknown type"),
            ({"limit": "x"}, "a whole number"),
            ({"model": ""}, "Name the model"),
            ({"window": "1s"}, "completion_window"),
            ({"name": "x" * 257}, "256 characters at most"),
        ):
            answer = await browser.client.post(path, data=form | {"prompt": "{text}"} | wrong)
            assert (answer.status_code, told in answer.text) == (400, True), wrong
        left_out = await browser.client.post(f"{path}/preview", data=form | {"prompt": "{text}", "id_column": "id"})
        assert "row 2: column &#39;id&#39; holds no id" in left_out.text
        again = await browser.client.post(path, data=form | {"prompt": "{text}", "id_column": "id"})
        made = await wait_for_batch(rooms, str(again.url).rpartition("/")[2])
        assert made.counts.total == 1


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        (b"a,b\n1\n1,2,3\n", "t.csv", "t.csv:2: the row has 1 cell where the header has 2. The same kind"),
        (b"PAR1 and no more", "t.parquet", "is not a Parquet file"),
    ],
)
async def test_a_broken_table_is_told_at_once_and_not_kept(
    engine: NullEngine, tmp_path: Path, content: bytes, name: str, told: str
) -> None:
    async with open_pages(tmp_path, engine) as (rooms, browser):
        answer = await drop(browser, content, name)
        assert answer.status_code == 400
        assert told in answer.json()["error"]
        assert await rooms.metadata.list_files(OWNER, limit=10) == []


async def test_names_and_cells_are_text(engine: NullEngine, tmp_path: Path) -> None:
    async with open_pages(tmp_path, engine) as (_, browser):
        table = f'"{HOSTILE}","{{}}"\n{HOSTILE},{HOSTILE}\n'.encode()
        path = (await drop(browser, table, f"{HOSTILE}.csv")).json()["path"]
        page = await browser.see(path)
        assert HOSTILE not in page
        form = await fill(browser, path, prompt=f"{{{HOSTILE}}}", model=HOSTILE, name=HOSTILE)
        shown = await browser.client.post(f"{path}/preview", data=form, headers={"accept": "application/json"})
        assert HOSTILE not in shown.json()["html"]
        assert HOSTILE not in (await browser.client.post(path, data=form | {"name": HOSTILE * 9})).text


async def test_what_only_may_look_makes_no_batch(engine: NullEngine, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"server__api_keys": ["k"]}
    async with open_pages(tmp_path, engine, **settings) as (_, browser):
        for path in (f"{ROOT}/new/file-x/preview", f"{ROOT}/new/file-x"):
            answer = await browser.client.post(path, data={"token": "x"})
            assert "API key" in answer.text
