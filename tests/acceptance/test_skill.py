"""What the skill tells an agent is true: its scripts and snippets are run, its tables are held against a server."""

import ast
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fastapi.openapi.utils import get_openapi

from backfill.batch import ENDPOINTS
from backfill.config import Config
from backfill.engines.reply import LostReason
from backfill.status import Bottleneck, ReplicaState
from backfill.web.api.app import _PARTS
from bench.null.process import NullEngine
from tests.acceptance.command_line import backfill
from tests.conformance.clients.environments import make_node_environment, make_python_environment
from tests.support.client import Client
from tests.support.lines import marker_of, request_line, request_lines
from tests.support.server_process import BackfillServer

ROOT = Path(__file__).resolve().parents[2]
SKILL = ROOT / "skills" / "backfill-batch-inference"
GUIDE = (SKILL / "SKILL.md").read_text(encoding="utf-8")
REFERENCE = (SKILL / "references" / "api-reference.md").read_text(encoding="utf-8")
DEFAULT_URL = "http://127.0.0.1:8484"
TIMEOUT_S = 60
BUN = "bun-linux-x64"
TSC = ("--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--types", "node", "--skipLibCheck")
REFUSED = 3
COUNT = 25
TEXTS = {"France": "marker-refused", "morning": "marker-answered"}


@pytest.fixture(scope="module")
def engine() -> Iterator[NullEngine]:
    with NullEngine(echo=True) as engine:
        yield engine


@pytest.fixture(scope="module")
def server(engine: NullEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackfillServer]:
    with BackfillServer(tmp_path_factory.mktemp("data"), engine.url) as server:
        yield server


@pytest.fixture(scope="module")
def locked_server(engine: NullEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackfillServer]:
    with BackfillServer(tmp_path_factory.mktemp("locked"), engine.url, server__api_keys='["key-of-ours"]') as server:
        yield server


@pytest.fixture(scope="module")
def client(server: BackfillServer) -> Client:
    return Client(server)


@pytest.fixture(autouse=True)
def plain_engine(engine: NullEngine) -> None:
    engine.behave(faults={}, fault_all=None, hold=False)


# ------------------------------------------------------------------------------------------------------ processes


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def run(command: list[str], folder: Path, **variables: str) -> Ended:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOGETHER", "OPENAI"))}
    quiet = {"TOGETHER_TELEMETRY_DISABLED": "1", "NO_PROXY": "127.0.0.1"}
    ended = subprocess.run(
        command,
        cwd=folder,
        env=kept | quiet | variables,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def find_node_modules() -> Path:
    packages = ("together-ai@0.52.0", "tsx@4.23.15", "typescript@5.9.3", "@types/node@20.19.43")
    return make_node_environment(*packages) / "node_modules"


def find_bun() -> str:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("the package with Bun is for Linux on x86-64")
    return str(make_node_environment(f"@oven/{BUN}@1.4.5") / "node_modules" / "@oven" / BUN / "bin" / "bun")


def copy_with_modules(source: str, target: Path) -> None:
    """As a user does: the file in a folder in which the packages are installed."""
    target.write_text(source, encoding="utf-8")
    (target.parent / "node_modules").symlink_to(find_node_modules(), target_is_directory=True)


# -------------------------------------------------------------------------------------------------------- scripts


@pytest.fixture(params=["together 3", "together 2", "Node", "Bun"])
def script(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The command that runs the workflow's script with each of its clients."""
    python_script = str(SKILL / "scripts" / "batch_workflow.py")
    if request.param == "together 3":
        return [sys.executable, python_script]
    if request.param == "together 2":
        return [str(make_python_environment("together-2.42.0") / "python"), python_script]
    copy = tmp_path / "batch_workflow.ts"
    copy_with_modules((SKILL / "scripts" / copy.name).read_text(encoding="utf-8"), copy)
    runner = find_bun() if request.param == "Bun" else str(tmp_path / "node_modules" / ".bin" / "tsx")
    return [runner, str(copy)]


def read_lines(path: Path) -> list[dict[str, Any]]:
    # Only a line feed ends a line: the ids hold a separator at which splitlines would break.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_a_script_runs_a_file(script: list[str], server: BackfillServer, engine: NullEngine, tmp_path: Path) -> None:
    engine.behave(faults={marker_of(REFUSED): ["400"]})
    ids = [f"größe\u2028{number}" for number in range(COUNT)]
    lines = [request_line(number, custom_id=one, model=None) for number, one in enumerate(ids)]
    (tmp_path / "in.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    options = ["--input", "in.jsonl", "--output", "out.jsonl", "--errors", "err.jsonl", "--model", "m"]
    ended = run([*script, *options, "--interval", "0.05", "--base-url", server.url], tmp_path)
    assert ended.code == 1, ended.err
    assert [line["custom_id"] for line in read_lines(tmp_path / "out.jsonl")] == ids[:REFUSED] + ids[REFUSED + 1 :]
    assert [line["custom_id"] for line in read_lines(tmp_path / "err.jsonl")] == [ids[REFUSED]]
    assert f"{ids[0]}: marker-{marker_of(0)} The null engine" in ended.out
    assert "COMPLETED 100.0 %" in ended.err
    assert f"{ids[REFUSED]}: 400: a fault on request" in ended.err


def test_a_script_s_samples(script: list[str], server: BackfillServer, tmp_path: Path) -> None:
    for endpoint in ENDPOINTS[:3]:  # the null engine has no /v1/responses
        options = ["--interval", "0.05", "--endpoint", endpoint, "--force"]
        ended = run([*script, *options], tmp_path, TOGETHER_BASE_URL=f"{server.url}/v1")
        assert ended.code == 0, ended.err
        assert len(read_lines(tmp_path / "batch_output.jsonl")) == ended.out.count("sample-") == 4
    assert not (tmp_path / "batch_errors.jsonl").exists()
    again = run([*script, "--base-url", server.url], tmp_path)
    assert again.code == 2
    assert "batch_output.jsonl exists already" in again.err


def test_a_script_takes_a_batch_up_again(script: list[str], server: BackfillServer, tmp_path: Path) -> None:
    client = Client(server)
    batch_id = client.create(client.upload(request_lines(2)))
    ended = run([*script, "--batch-id", batch_id, "--interval", "0.05", "--base-url", server.url], tmp_path)
    assert ended.code == 0, ended.err
    assert len(read_lines(tmp_path / "batch_output.jsonl")) == 2


def test_a_script_explains_what_fails(
    script: list[str], server: BackfillServer, locked_server: BackfillServer, tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_text(
        '{"custom_id": "a", "body": {"model": "m"}}\n[]\n{"custom_id": "a", "body": {}}\n'
    )
    (tmp_path / "unfit.jsonl").write_text('{"custom_id": "a", "body": {"model": "m", "prompt": "b"}}\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    cases = [
        (server.url, ["--input", "missing.jsonl"], "no such file"),
        (server.url, ["--input", "empty.jsonl"], "has no requests"),
        (server.url, ["--input", "bad.jsonl"], "line 2: must be an object with custom_id and body"),
        (server.url, ["--input", "bad.jsonl"], "is taken by line 1"),
        (server.url, ["--input", "unfit.jsonl"], "line 1: /v1/chat/completions needs body.messages"),
        (server.url, ["--batch-id", "unknown"], "No such batch: unknown"),
        (server.url, ["--endpoint", "/v1/nowhere"], "/v1/embeddings"),
        (locked_server.url, [], "API key"),
        ("http://127.0.0.1:9", [], "connect"),
    ]
    for url, options, reason in cases:
        ended = run([*script, *options, "--interval", "0.05", "--base-url", url], tmp_path)
        assert ended.code == 2, (options, ended.err)
        # Words of the platform differ: "No such file" and "no such file", "Connection refused" and "fetch failed".
        said = ended.err.lower().replace("fetch failed", "connection refused")
        assert reason.lower() in said, (options, ended.err)
        assert "Traceback" not in ended.err
        assert "    at " not in ended.err
        assert not (tmp_path / "batch_output.jsonl").exists()


def test_the_typescript_is_strict(tmp_path: Path) -> None:
    script = tmp_path / "batch_workflow.ts"
    copy_with_modules((SKILL / "scripts" / script.name).read_text(encoding="utf-8"), script)
    ended = run([str(tmp_path / "node_modules" / ".bin" / "tsc"), *TSC, script.name], tmp_path)
    assert ended.code == 0, ended.out


# --------------------------------------------------------------------------------------------------- the guide


def find_blocks(language: str, heading: str) -> str:
    """The blocks of one language in a section, joined: each goes on from the one before."""
    section = GUIDE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(rf"(?ms)^```{language}\n(.*?)^```", section)
    assert blocks, f"there is no {language} under {heading}"
    return "\n".join(blocks)


def find_steps(language: str, server_url: str) -> str:
    """The five steps with another server, less patience, and one question that the engine refuses."""
    steps = find_blocks(language, "The five steps")
    changes = {
        DEFAULT_URL: server_url,
        "What is the capital of France?": TEXTS["France"],
        "Translate 'good morning' into Spanish.": TEXTS["morning"],
        "time.sleep(5)": "time.sleep(0.05)",
        "await sleep(5000)": "await sleep(50)",
        "    sleep 5\n": "    sleep 0.05\n",
    }
    found = sum(text in steps for text in changes)
    assert found == 4, "address, two questions and a pause"
    for text, other in changes.items():
        steps = steps.replace(text, other)
    return steps


@pytest.fixture
def one_refused(engine: NullEngine) -> None:
    engine.behave(faults={"refused": ["400"]})


@pytest.mark.usefixtures("one_refused")
def test_the_steps_in_python(server: BackfillServer, tmp_path: Path) -> None:
    ended = run([sys.executable, "-c", find_steps("python", server.url)], tmp_path)
    assert ended.code == 0, ended.err
    assert "question-2 marker-answered The null engine" in ended.out
    assert '{"custom_id":"question-1","error":{"message":"a fault on request","code":"400"}}' in ended.out


@pytest.mark.usefixtures("one_refused")
def test_the_steps_in_typescript(server: BackfillServer, tmp_path: Path) -> None:
    script = tmp_path / "steps.mts"
    copy_with_modules(find_steps("typescript", server.url), script)
    compiled = run([str(tmp_path / "node_modules" / ".bin" / "tsc"), *TSC, script.name], tmp_path)
    assert compiled.code == 0, compiled.out
    ended = run([str(tmp_path / "node_modules" / ".bin" / "tsx"), script.name], tmp_path)
    assert ended.code == 0, ended.err
    assert "question-2 marker-answered The null engine" in ended.out
    assert '"custom_id":"question-1","error"' in ended.out


@pytest.mark.usefixtures("one_refused")
def test_the_steps_with_curl(server: BackfillServer, tmp_path: Path) -> None:
    ended = run(["sh", "-euc", find_steps("sh", server.url)], tmp_path)
    assert ended.code == 0, ended.err
    assert [line["custom_id"] for line in read_lines(tmp_path / "answers.jsonl")] == ["question-2"]
    assert [line["custom_id"] for line in read_lines(tmp_path / "errors.jsonl")] == ["question-1"]


@pytest.mark.usefixtures("one_refused")
def test_results_and_retry_after_the_steps(server: BackfillServer, client: Client, tmp_path: Path) -> None:
    script = find_steps("sh", server.url) + find_blocks("sh", "Before the end, and after it") + 'echo "$again"\n'
    ended = run(["sh", "-euc", script], tmp_path)
    assert ended.code == 0, ended.err
    *results, again = ended.out.splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in results) == ["question-1", "question-2"]
    retried = client.wait_for_end(again)
    (line,) = client.download(retried["output_file_id"])
    assert json.loads(line)["custom_id"] == "question-1"


def test_an_idempotent_create_in_python(server: BackfillServer, client: Client, tmp_path: Path) -> None:
    (shown,) = re.findall(r"`create\(\.\.\., (extra_headers=.*)\)`", GUIDE)
    file_id = client.upload(request_lines(1))
    code = f"""
from together import Together
client = Together(base_url={server.url!r}, api_key="not-needed")
create = lambda: client.batches.create(input_file_id={file_id!r}, endpoint="/v1/chat/completions", {shown})
print(create().job.id == create().job.id)
"""
    assert run([sys.executable, "-c", code], tmp_path).out == "True\n"


def test_the_steps_with_openai_s_sdk(server: BackfillServer, tmp_path: Path) -> None:
    code = find_blocks("python", "OpenAI's dialect")
    assert DEFAULT_URL in code
    code = code.replace(DEFAULT_URL, server.url).replace("time.sleep(5)", "time.sleep(0.05)")
    ended = run([str(make_python_environment("openai-3.54.0") / "python"), "-c", code], tmp_path)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["custom_id"] == "sum"


def test_the_commands(server: BackfillServer, engine: NullEngine, tmp_path: Path) -> None:
    (tmp_path / "requests.jsonl").write_bytes(request_lines(3))
    settings = {"BACKFILL_URL": server.url}
    batch_id = ""
    shown = [line.partition("#")[0].split() for line in GUIDE.splitlines() if line.startswith("backfill ")]
    done = []
    for _, *arguments in shown:
        # Neither a server nor the built-in engine is started here: other tests do.
        if arguments[0] == "serve" or (arguments[0] == "run" and "--engine" not in arguments):
            continue
        replaced = {"BATCH_ID": batch_id, "http://127.0.0.1:8000/v1": engine.url}
        command = [replaced.get(argument, argument) for argument in arguments]
        if arguments[0] == "run":
            command += ["--force"]  # `download` has written to the same name
        code, out, err = backfill(*command, folder=tmp_path, variables=settings)
        assert code == 0, (arguments, err)
        batch_id = out.strip() if arguments[0] == "submit" else batch_id
        done.append(arguments[0])
        if arguments[0] in ("run", "download"):
            assert len(read_lines(tmp_path / "answers.jsonl")) == 3
    assert done == ["submit", "watch", "download", "run"]


def test_the_settings_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "backfill.toml").write_text(find_blocks("toml", "Install and start"))
    (tmp_path / "requests.jsonl").write_bytes(request_lines(1))
    assert backfill("check", "requests.jsonl", folder=tmp_path)[0] == 0


def test_the_front_matter() -> None:
    matter = re.match(r"---\nname: ([a-z0-9-]+)\ndescription: >-\n((?:  .+\n)+)---\n", GUIDE)
    assert matter, "the front matter has a name and a description"
    assert matter[1] == SKILL.name
    assert 200 < len(matter[2]) <= 1024


def test_what_the_guide_points_at_is_there() -> None:
    for name in re.findall(r"`((?:scripts|references)/[\w.-]+)`", GUIDE):
        assert (SKILL / name).is_file(), name


# ------------------------------------------------------------------------------------------------- the reference


def read_section(heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    level = heading.partition(" ")[0]
    found = re.search(rf"(?ms)^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", REFERENCE)
    assert found, f"the reference has no {heading!r}"
    return found[1]


def read_first_column(text: str) -> set[str]:
    """Whatever stands as code in the first column of the tables."""
    cells = re.findall(r"(?m)^\| (`[^|]*`) \|", text)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def read_members(heading: str, dialect: str | None = None) -> set[str]:
    rows = re.findall(r"(?m)^\| `(\w+)` \|([^|]*)\|([^|]*)\|", read_section(heading))
    return {name for name, _, owner in rows if dialect is None or owner.strip() in (dialect, "both")}


@pytest.fixture(scope="module")
def ended_batch(engine: NullEngine, client: Client) -> dict[str, Any]:
    """A batch of Together's dialect with a line of each kind: answered, refused and given up."""
    engine.behave(faults={marker_of(1): ["400"], marker_of(2): ["500"] * Config().dispatch.tries})
    return client.wait_for_end(client.create(client.upload(request_lines(3))))


def list_routes(document: dict[str, Any]) -> set[str]:
    return {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}


def test_all_routes_are_in_the_reference(client: Client) -> None:
    told = read_first_column(read_section("## Routes"))
    routes = [route for part in _PARTS for route in part.router.routes]
    assert told == list_routes(get_openapi(title="all that is routed", version="", routes=routes))
    document = client.request("GET", "/openapi.json").json()
    assert list_routes(document) - told == set()
    members = document["components"]["schemas"]["CreateBatch"]["properties"]
    assert read_first_column(read_section("### Create")) == set(members)


@pytest.mark.parametrize(
    ("prefix", "dialects"),
    [("/v1", {"together", "openai"}), ("/together/v1", {"together"}), ("/openai/v1", {"openai"})],
)
def test_a_file_has_the_members_of_the_reference(
    client: Client, ended_batch: dict[str, Any], prefix: str, dialects: set[str]
) -> None:
    file = client.request("GET", f"{prefix}/files/{ended_batch['input_file_id']}").json()
    assert set(file) == {name for dialect in dialects for name in read_members("### File object", dialect)}


def test_a_batch_has_the_members_of_the_reference(client: Client, ended_batch: dict[str, Any]) -> None:
    assert set(ended_batch) == read_members("### Batch object, Together's dialect")
    other = client.request("GET", f"/openai/v1/batches/{ended_batch['id']}").json()
    assert set(other) == read_members("### Batch object, OpenAI's dialect")
    page = client.request("GET", "/openai/v1/batches").json()
    answers = read_section("## Routes")
    assert [name for name in page if f'"{name}"' not in answers] == []
    rows = dict(
        re.findall(r"(?m)^\| `(\w+)` \| object \| (.*) \|$", read_section("### Batch object, OpenAI's dialect"))
    )
    for member in ("request_counts", "usage"):
        assert [name for name in other[member] if f"`{name}`" not in rows[member]] == []


def test_an_engine_has_the_members_of_the_reference(client: Client) -> None:
    (engine,) = client.request("GET", "/v1/engines").json()["data"]
    assert set(engine) == read_members("## Engines")
    rows = dict(re.findall(r"(?m)^\| `(\w+)` \| string \| (.*) \|$", read_section("## Engines")))
    for member, words in (("state", ReplicaState), ("bottleneck", Bottleneck)):
        assert set(re.findall(r"`(\w+)`", rows[member])) == set(words)


def test_lines_are_as_the_reference_tells(client: Client, ended_batch: dict[str, Any]) -> None:
    rows = read_section("### Results")
    together = {
        kind: found[1]
        for kind in ("output", "errors")
        if (found := re.search(rf"(?m)^\| {kind} \| together \| `(.*)` \|$", rows))
    }
    (answer,) = map(json.loads, client.download(ended_batch["output_file_id"]))
    refused, given_up = map(json.loads, client.download(ended_batch["error_file_id"]))
    assert re.findall(r'"(\w+)"', together["output"]) == [*list(answer)[:3], *answer["response"]]
    assert re.findall(r'"(\w+)"', together["errors"]) == [*refused, *refused["error"]]
    assert given_up["error"]["code"] == "server_error"


def test_the_models_and_the_rest(client: Client, ended_batch: dict[str, Any]) -> None:
    rows = dict(re.findall(r"(?m)^\| `(\w+ /[^`]+)` \| [^|]+ \| (.*) \|$", read_section("## Routes")))
    for route in ("GET /v1/whoami", "GET /health"):
        method, path = route.split()
        assert [name for name in client.request(method, path).json() if f"`{name}`" not in rows[route]] == []
    deleted = client.request("DELETE", f"/v1/files/{client.upload(request_lines(1))}").json()
    assert [name for name in deleted if f"`{name}`" not in rows["DELETE /v1/files/{file_id}"]] == []
    error = client.request("POST", f"/v1/batches/{ended_batch['id']}/cancel").json()["error"]
    assert [name for name in error if f'"{name}"' not in read_section("## Errors")] == []
    assert error["code"] == "invalid_batch_state"


def find_codes(*places: str) -> set[str]:
    """Every word that is given as an error's code in the source, by keyword or as a class's own."""
    sources = [path for place in places for path in sorted((ROOT / "src" / "backfill").glob(place))]
    assert sources
    nodes = [node for path in sources for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    keywords = [node.value for node in nodes if isinstance(node, ast.keyword) and node.arg == "code"]
    values = [value for one in keywords for value in ast.walk(one) if isinstance(value, ast.Constant)]
    return {value.value for value in values if isinstance(value.value, str)}


def test_all_codes_are_in_the_reference() -> None:
    told = read_first_column(read_section("## Errors"))
    assert find_codes("web/**/*.py", "turns/*.py", "intake/*.py", "batch.py") - told == set()
    problems = set()
    for place in ("wire/*.py", "turns/*.py", "intake/*.py"):
        for path in (ROOT / "src" / "backfill").glob(place):
            problems |= set(re.findall(r'(?:BatchProblem\(\s*|code: str = )"(\w+)"', path.read_text(encoding="utf-8")))
    of_files = read_first_column(read_section("### Problems that make a batch FAILED"))
    of_requests = read_first_column(read_section("### Requests that are not sent"))
    assert problems == of_files | of_requests
    lost = {reason.value for reason in LostReason}
    assert lost - read_first_column(read_section("### Codes of failed lines")) == set()
    # An engine that is away costs no try, so that the guide need not tell what to do about such lines.
    assert [code for code in lost - {LostReason.UNREACHABLE} if f"`{code}`" not in GUIDE] == []


def test_the_limits_are_the_defaults() -> None:
    rows = re.findall(r"(?m)^\| `([\w.]+)` \| ([\d,]+)", read_section("## Limits"))
    assert rows
    for name, value in rows:
        section, _, setting = name.partition(".")
        assert getattr(getattr(Config(), section), setting) == float(value.replace(",", "")), name
    limits = Config().limits
    for words in (f"{limits.lines:,}", f"{limits.file_size_bytes:,} bytes", f"{limits.custom_id_length} characters"):
        assert words in GUIDE
    assert all(f"`{endpoint}`" in GUIDE and f"`{endpoint}`" in REFERENCE for endpoint in ENDPOINTS)
