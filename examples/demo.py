"""The whole way on this machine: start a server, run a batch through Together's own SDK, show answers, stop.

`make demo` runs it. Everything it writes is in a temporary folder, but for the model, which is kept for next time.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Must be set before the SDK is imported: a demo of one's own machine calls nobody else's.
os.environ |= {"TOGETHER_TELEMETRY_DISABLED": "1", "TOGETHER_DISABLE_VERSION_CHECK": "1"}
# A proxy is not the way to oneself.
os.environ["NO_PROXY"] = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1")))

from together import Together

REQUESTS = Path(__file__).with_name("requests.jsonl")
MODEL = "smollm2-135m-instruct"
FINAL = ("COMPLETED", "FAILED", "EXPIRED", "CANCELLED")
SHOWN = ("capital-france", "review-2", "translate-es", "support-return", "haiku-autumn", "python-reverse")
POLL_S = 0.5
STOP_TIMEOUT_S = 20


def main() -> int:
    """Run the demo; the exit code says whether every request was answered."""
    # SIGTERM unwinds as Ctrl-C does, so that nothing is left running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"Backfill runs {REQUESTS.name} through Together's SDK, on this machine, with {MODEL}.")
    print("The first run fetches that model (98 MB); it is small: look at the way, not at the answers.\n")
    try:
        subprocess.run(
            [sys.executable, "-m", "backfill", "models", "pull", MODEL], check=True, stdout=subprocess.DEVNULL
        )
        with (
            tempfile.TemporaryDirectory(prefix="backfill-demo-") as folder,
            running_server(Path(folder)) as url,
        ):
            return run_batch(url)
    except subprocess.CalledProcessError as error:
        return error.returncode
    except KeyboardInterrupt:
        print("\nstopped")
        return 130


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """A server with the default settings on a free port; gives its URL and ends it afterwards, come what may."""
    command = [sys.executable, "-m", "backfill", "serve", "--port", "0", "--data-dir", str(folder), "--json"]
    # What is in flight when the demo is stopped is of no use to anybody: do not wait for it.
    environment = os.environ | {"BACKFILL_DISPATCH__CANCEL_GRACE_S": "0"}
    log_path = folder / "server.log"
    with log_path.open("wb") as log:
        # A session of its own: Ctrl-C is for the demo, which then ends the server in good order.
        server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        if not line or json.loads(line)["event"] != "ready":
            sys.exit(f"the server did not start:\n{log_path.read_text()}")
        url = json.loads(line)["url"]
        print(f"backfill serve   {url}")
        yield url
    finally:
        server.terminate()
        try:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        server.stdout.close()


def run_batch(url: str) -> int:
    """What a user of Together's Batch API does, step by step."""
    client = Together(base_url=url, api_key="not-needed")
    began = time.monotonic()
    file = client.files.upload(file=str(REQUESTS), purpose="batch-api", check=False)
    print(f"files.upload     {file.id}")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions").job
    assert batch is not None
    assert batch.id is not None
    print(f"batches.create   {batch.id}")
    while batch.status not in FINAL:
        show_progress(str(batch.status), batch.progress or 0.0, time.monotonic() - began)
        time.sleep(POLL_S)
        batch = client.batches.retrieve(str(batch.id))
    duration_s = time.monotonic() - began
    show_progress(str(batch.status), batch.progress or 0.0, duration_s)
    print("\n" if sys.stdout.isatty() else "")
    answers = read_results(client, batch.output_file_id)
    errors = read_results(client, batch.error_file_id)
    show_answers(answers, errors, duration_s)
    return 0 if batch.status == "COMPLETED" and not errors else 1


def read_results(client: Together, file_id: str | None) -> dict[str, dict[str, Any]]:
    """Lines of an output or error file by custom id; there is no file where there is no line."""
    if file_id is None:
        return {}
    # Not splitlines: it breaks at separators that JSON allows inside a string.
    lines = client.files.content(file_id).text().rstrip("\n").split("\n")
    return {result["custom_id"]: result for result in map(json.loads, lines)}


def show_progress(status: str, percentage: float, elapsed_s: float) -> None:
    """One line that is written over at a terminal, and one line after another elsewhere."""
    done = round(percentage * 30 / 100)
    line = f"{status:16} [{'#' * done:30}] {percentage:3.0f} %  {elapsed_s:4.1f} s"
    print(f"\r{line}" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)


def show_answers(answers: dict[str, dict[str, Any]], errors: dict[str, dict[str, Any]], duration_s: float) -> None:
    """A few answers, all errors, and what it took."""
    requests = {line["custom_id"]: line["body"] for line in map(json.loads, REQUESTS.read_text().strip().split("\n"))}
    bodies = {custom_id: answer["response"]["body"] for custom_id, answer in answers.items()}
    for custom_id in SHOWN:
        if custom_id in bodies:
            print(f"> {requests[custom_id]['messages'][-1]['content']}")
            print(f"  {' '.join(bodies[custom_id]['choices'][0]['message']['content'].split())}\n")
    for custom_id, error in errors.items():
        print(f"! {custom_id}: {error['error']['message']}")
    tokens_in = sum(body["usage"]["prompt_tokens"] for body in bodies.values())
    tokens_out = sum(body["usage"]["completion_tokens"] for body in bodies.values())
    print(f"{len(answers)} answered, {len(errors)} failed in {duration_s:.1f} s, the start of the engine included")
    print(f"{tokens_in} tokens in, {tokens_out} out: {tokens_out / duration_s:.0f} tokens/s")


if __name__ == "__main__":
    sys.exit(main())
