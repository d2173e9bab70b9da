"""What a person does with a table: drop it, write a prompt, see what it would ask, start, and read the answers."""

import csv
import io
import re
from pathlib import Path

import pyarrow as pa
import pytest
from playwright.sync_api import Browser, Page, expect
from pyarrow import parquet

from bench.null.process import NullEngine
from tests.browser.conftest import Complaints, look_until
from tests.support.server_process import BackfillServer

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
CHOOSER = "A JSONL file"


def write_csv(folder: Path, rows: int = 4, name: str = "reviews.csv") -> Path:
    path = folder / name
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "text", "stars"])
        writer.writerows([f"r{number}", f"Great, number {number}", number] for number in range(rows))
    return path


def write_parquet(folder: Path) -> Path:
    path = folder / "reviews.parquet"
    parquet.write_table(pa.table({"text": ["one", "two"], "tags": [["a"], []], "n": [1, None]}), path)
    return path


def drop(page: Page, server: BackfillServer, path: Path) -> None:
    page.goto(f"{server.url}/dashboard/new")
    page.get_by_label(CHOOSER).set_input_files(path)
    expect(page.get_by_label("Prompt", exact=True)).to_be_visible()


def fetch(page: Page, name: str) -> bytes:
    with page.expect_download() as download:
        page.get_by_role("link", name=name, exact=True).click()
    return Path(download.value.path()).read_bytes()


def test_a_csv_is_dropped_asked_about_and_comes_back(
    page: Page, server: BackfillServer, engine: NullEngine, tmp_path: Path
) -> None:
    page.goto(f"{server.url}/dashboard/new")
    page.evaluate(
        """(content) => {
            const dropped = new DataTransfer();
            dropped.items.add(new File([content], "reviews.csv"));
            document.querySelector("form[data-upload]")
                .dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, cancelable: true}));
        }""",
        write_csv(tmp_path).read_text(),
    )
    expect(page.get_by_role("columnheader", name="stars")).to_be_visible()
    expect(page.get_by_role("cell", name="Great, number 3")).to_be_visible()
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("Is this good? {txt}")
    expect(page.locator("#preview")).to_contain_text("did you mean 'text'?")
    expect(page.locator("#preview-state")).to_contain_text("has no column 'txt'")
    prompt.fill("Is this good? ")
    page.get_by_role("button", name="Put {text} into the prompt").click()
    expect(prompt).to_have_value("Is this good? {text}")
    expect(page.locator("#preview-state")).to_have_text("4 requests would be made")
    expect(page.locator("#preview article")).to_have_count(3)
    expect(page.locator("#preview")).to_contain_text("Is this good? Great, number 2")
    expect(page.locator("#preview")).to_contain_text("Tokens in, about")
    page.get_by_label("What names each row").select_option("review")
    expect(page.locator("#preview")).to_contain_text("r2")
    page.get_by_label("Model").fill("m")
    page.get_by_label("Name, if you like").fill("my reviews")
    engine.behave(hold=True)
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", name="Batch my reviews")).to_be_visible()
    partial = list(csv.DictReader(io.StringIO(fetch(page, "CSV").decode(), newline="")))
    assert [row["_error"] for row in partial] == ["there is no answer yet [unfinished]"] * 4
    engine.behave(hold=False)
    expect(page.get_by_text("4 of 4 done")).to_be_visible()
    expect(page.locator(".pipe .now")).to_contain_text("completed")
    page.reload()
    rows = list(csv.DictReader(io.StringIO(fetch(page, "CSV").decode(), newline="")))
    assert [(row["review"], row["text"], row["stars"]) for row in rows] == [
        (f"r{number}", f"Great, number {number}", str(number)) for number in range(4)
    ]
    assert all(row["answer"] and not row["_error"] for row in rows)
    page.goto(f"{server.url}/dashboard/batches?text=reviews")
    expect(page.get_by_role("link", name="my reviews")).to_be_visible()


def test_a_parquet_file_comes_back_as_one(
    page: Page, server: BackfillServer, engine: NullEngine, tmp_path: Path
) -> None:
    drop(page, server, write_parquet(tmp_path))
    expect(page.get_by_role("cell", name='["a"]')).to_be_visible()
    page.get_by_label("Prompt", exact=True).fill("Sum up: {text} {tags}")
    page.get_by_label("Model").fill("m")
    page.get_by_label("Columns of answers").fill("label:enum(pos,neg)")
    expect(page.locator("#preview-state")).to_have_text("2 requests would be made")
    page.get_by_role("button", name="Start").click()
    expect(page.locator(".pipe .now")).to_contain_text("completed")
    found = parquet.read_table(io.BytesIO(fetch(page, "Parquet")))
    assert found.column_names[:5] == ["text", "tags", "n", "label", "_error"]
    assert found.schema.field("tags").type == pa.list_(pa.string())
    assert found["n"].to_pylist() == [1, None]
    # The null engine says nothing that is JSON, and each row says so.
    assert all("[bad_answer]" in error for error in found["_error"].to_pylist())


def test_a_table_that_is_none_is_told_where_it_was_dropped(
    page: Page, server: BackfillServer, complaints: Complaints, tmp_path: Path
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("a,b\n1\n1,2\n1,2,3\n")
    page.goto(f"{server.url}/dashboard/new")
    page.get_by_label(CHOOSER).set_input_files(path)
    expect(page.locator("#upload-state")).to_contain_text("bad.csv:2: the row has 1 cell where the header has 2.")
    expect(page.locator("#upload-state")).to_contain_text("in line 4.")
    assert [complaint for complaint in complaints if "400" not in complaint] == []
    complaints.clear()


def test_plain_rows_are_told_from_requests(page: Page, server: BackfillServer, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one", "n": 1}\n{"text": "two"}\n')
    drop(page, server, path)
    expect(page.get_by_text("JSON lines")).to_be_visible()
    expect(page.get_by_role("cell", name="null")).to_be_visible()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_names_and_cells_are_text(
    page: Page, server: BackfillServer, tmp_path: Path, width: int, scheme: str
) -> None:
    path = tmp_path / "hostile.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[HOSTILE, f"{{{HOSTILE}}}", "x" * 300], [HOSTILE, "=1+1", "y" * 3000]])
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    drop(page, server, path)
    # Nothing can name the second column: its name begins with a brace.
    expect(page.locator(".columns button")).to_have_count(2)
    for button in page.locator(".columns button").all():
        button.click()
    expect(page.locator("#preview-state")).to_have_text("1 request would be made")
    expect(page.locator("#preview")).to_contain_text(HOSTILE)
    page.get_by_label("Columns of answers").fill(f"new {HOSTILE}")
    expect(page.locator("#preview")).to_contain_text("Tokens in, about")
    page.get_by_label("Model").fill(HOSTILE)
    page.get_by_label("Name, if you like").fill(HOSTILE[:60])
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", name=re.compile("^Batch "))).to_be_visible()
    # Its words are there before its styles are.
    page.wait_for_load_state()
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_table_works_without_scripts(browser: Browser, server: BackfillServer, tmp_path: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{server.url}/dashboard/new")
    page.get_by_label(CHOOSER).set_input_files(write_csv(tmp_path))
    page.get_by_role("button", name="Upload and check").click()
    expect(page.locator(".columns")).to_contain_text("{text}")
    page.get_by_label("Prompt", exact=True).fill("Say: {text}")
    page.get_by_label("Model").fill("m")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#preview")).to_contain_text("Say: Great, number 0")
    page.get_by_role("button", name="Start").click()
    look_until(page, "4 of 4 done")
    context.close()
