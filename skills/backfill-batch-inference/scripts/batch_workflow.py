"""A whole batch through the `together` SDK: check, upload, create, poll, download, print.

    pip install "together>=2"
    python batch_workflow.py                                  # four sample requests to http://127.0.0.1:8484
    python batch_workflow.py --input requests.jsonl --output answers.jsonl
    python batch_workflow.py --batch-id ID                    # take up a batch that was made before

The server is --base-url or TOGETHER_BASE_URL; TOGETHER_API_KEY is needed only if the server has keys. Progress goes to
standard error, answers to standard output.

Exit codes: 0 every request was answered, 1 the batch has ended but some were not, 2 nothing could be done,
130 interrupted (the batch goes on).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import together

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_URL = "http://127.0.0.1:8484"
SAMPLE_MODEL = "smollm2-135m-instruct"
# Of which there are samples; the server may serve more.
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
QUESTIONS = (
    "What is the capital of France?",
    "Name three primary colours.",
    "Translate 'good morning' into Spanish.",
    "What is 17 plus 25?",
)
FINAL = frozenset({"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"})
CUSTOM_ID_LENGTH_MAX = 64
PROBLEMS_SHOWN = 10
LINES_SHOWN = 20
# While polling only: a server that is being restarted keeps its batches, so it is worth a minute's patience.
POLL_RETRIES = 10


class Unusable(Exception):
    """Nothing can be done with what was given; the message says why."""


def main() -> int:
    """Run the workflow; gives the exit code."""
    options = parse_options()
    # Without keys on the server any key will do, but the SDK insists on one.
    key = os.environ.get("TOGETHER_API_KEY") or "not-needed"
    batch_id: str | None = options.batch_id
    try:
        with together.Together(base_url=options.base_url, api_key=key) as client:
            refuse_existing(options.output, options.errors, force=options.force)
            if batch_id is None:
                batch_id = submit(client, options)
            return finish(client, batch_id, options)
    except Unusable as error:
        say(f"error: {error}")
    except together.AuthenticationError:
        # Not the SDK's own words: it takes any 401 at an upload for an account without credit.
        say(f"error: {options.base_url} does not accept this API key; set TOGETHER_API_KEY.")
    except together.APIStatusError as error:
        say(f"error: the server says: {name_reason(error)}")
    except (together.TogetherError, httpx.HTTPError) as error:
        say(f"error: {options.base_url} cannot be reached or broke off: {error.__cause__ or error}")
    except OSError as error:
        say(f"error: {error.filename or 'input or output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        say(f"interrupted; --batch-id {batch_id} takes the batch up again" if batch_id else "interrupted")
        return 130
    return 2


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Upload a JSONL file, run it as a batch and fetch the results.")
    parser.add_argument("--input", type=Path, help="requests, one JSON object a line; without it a few samples are run")
    parser.add_argument("--model", help="model of the samples, and of input lines that name none")
    parser.add_argument("--output", type=Path, default=Path("batch_output.jsonl"), help="where the answers go")
    parser.add_argument("--errors", type=Path, default=Path("batch_errors.jsonl"), help="where failed requests go")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two polls")
    parser.add_argument("--base-url", default=os.environ.get("TOGETHER_BASE_URL") or DEFAULT_URL)
    parser.add_argument("--endpoint", default=ENDPOINTS[0], help="where each request goes, as /v1/embeddings")
    parser.add_argument("--batch-id", help="take up this batch instead of making one")
    parser.add_argument("--force", action="store_true", help="replace output and error files that exist")
    return parser.parse_args()


def refuse_existing(*paths: Path, force: bool) -> None:
    """Results of an earlier batch are not thrown away by accident."""
    for path in paths:
        if path.exists() and not force:
            message = f"{path} exists already; --force replaces it."
            raise Unusable(message)


def submit(client: together.Together, options: argparse.Namespace) -> str:
    """Check and upload the input, and make a batch of it; gives the batch's id."""
    path = options.input
    if path is None:
        if options.endpoint not in ENDPOINTS:
            message = f"There are samples for {', '.join(ENDPOINTS)} only; --input gives a file for {options.endpoint}."
            raise Unusable(message)
        path = options.output.with_name("batch_samples.jsonl")
        write_samples(path, options.endpoint, options.model or SAMPLE_MODEL)
    say(f"{path}: {check_input(path, options.model)} requests")
    # The server checks every line; the SDK's own check refuses batch files in some of its releases.
    file = client.files.upload(file=path, purpose="batch-api", check=False)
    say(f"uploaded as {file.id}")
    more = {"model_id": options.model} if options.model else {}
    created = client.batches.create(input_file_id=file.id, endpoint=options.endpoint, **more)
    if created.warning:
        say(f"warning: {created.warning}")
    # `create` wraps the batch in `job`; `retrieve` does not.
    if created.job is None or created.job.id is None:
        message = f"{options.base_url} does not answer as a batch server does."
        raise Unusable(message)
    say(f"created batch {created.job.id}")
    return created.job.id


def write_samples(path: Path, endpoint: str, model: str) -> None:
    """Write a few requests in the form that the endpoint takes."""
    with path.open("w", encoding="utf-8") as file:
        for number, question in enumerate(QUESTIONS, start=1):
            body: dict[str, Any] = {"model": model}
            if endpoint == "/v1/chat/completions":
                body |= {"messages": [{"role": "user", "content": question}], "max_tokens": 64, "temperature": 0}
            elif endpoint == "/v1/completions":
                body |= {"prompt": question, "max_tokens": 64, "temperature": 0}
            elif endpoint == "/v1/responses":
                body |= {"input": question, "max_output_tokens": 64, "temperature": 0}
            else:
                body |= {"input": question}
            file.write(json.dumps({"custom_id": f"sample-{number}", "body": body}) + "\n")


def check_input(path: Path, model: str | None) -> int:
    """Count the requests; raises Unusable with line numbers for what the server would refuse anyway."""
    problems: list[str] = []
    seen: dict[str, int] = {}
    # As bytes: only a line feed ends a line here, whatever other separators a text may hold.
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            custom_id, problem = check_line(line, model)
            if custom_id in seen:
                problem = f"custom_id {custom_id!r} is taken by line {seen[custom_id]}"
            elif custom_id is not None:
                seen[custom_id] = number
            if problem:
                problems.append(f"line {number}: {problem}")
    if problems:
        more = f"\n  and {len(problems) - PROBLEMS_SHOWN} more" if len(problems) > PROBLEMS_SHOWN else ""
        message = f"{path} cannot be run:\n  " + "\n  ".join(problems[:PROBLEMS_SHOWN]) + more
        raise Unusable(message)
    if not seen:
        message = f"{path} has no requests."
        raise Unusable(message)
    return len(seen)


def check_line(line: bytes, model: str | None) -> tuple[str | None, str | None]:
    """The line's custom_id, if it has a usable one, and what is wrong with the line."""
    try:
        request = json.loads(line)
    except ValueError as error:
        return None, f"not valid JSON: {error}"
    if not isinstance(request, dict) or not isinstance(request.get("body"), dict):
        return None, "must be an object with custom_id and body"
    custom_id = request.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= CUSTOM_ID_LENGTH_MAX:
        return None, f"custom_id must be a string of 1 to {CUSTOM_ID_LENGTH_MAX} characters"
    if not model and not request["body"].get("model"):
        return custom_id, "body.model is missing; --model gives one to such lines"
    return custom_id, None


def finish(client: together.Together, batch_id: str, options: argparse.Namespace) -> int:
    """Wait for the batch, fetch and show its results; gives the exit code."""
    batch = wait(client, batch_id, options.interval)
    for path in (options.output, options.errors):
        # Those that may be replaced: what is there afterwards is of this batch.
        path.unlink(missing_ok=True)
    if batch.status == "FAILED":
        message = f"the batch failed, and nothing was run: {batch.error}"
        raise Unusable(message)
    if batch.output_file_id:
        download(client, batch.output_file_id, options.output)
        show_answers(options.output)
        say(f"answers: {options.output}")
    if batch.error_file_id:
        download(client, batch.error_file_id, options.errors)
        show_errors(options.errors)
        say(f"errors: {options.errors}")
    # A COMPLETED batch can have failed lines: they are the ones in the error file.
    return 0 if batch.status == "COMPLETED" and not batch.error_file_id else 1


def wait(client: together.Together, batch_id: str, interval_s: float) -> Any:
    """Poll until the batch has ended, and tell whenever something has changed."""
    patient = client.with_options(max_retries=POLL_RETRIES)
    told = ""
    while True:
        batch = patient.batches.retrieve(batch_id)
        now = f"{batch.status} {batch.progress or 0:.1f} %"
        if now != told:
            say(now)
            told = now
        if batch.status in FINAL:
            return batch
        time.sleep(interval_s)


def download(client: together.Together, file_id: str, path: Path) -> None:
    """Stream a file to disk; it has its name only once it is whole."""
    partial = path.with_name(path.name + ".partial")
    with client.files.with_streaming_response.content(id=file_id) as response:
        response.stream_to_file(partial)
    partial.replace(path)


def show_answers(path: Path) -> None:
    """Print the first answers."""
    for result in read_first(path):
        print(f"{result['custom_id']}: {describe_answer(result['response']['body'])}")


def show_errors(path: Path) -> None:
    """Print why the first failed requests failed."""
    for result in read_first(path):
        error = result["error"]
        say(f"{result['custom_id']}: {error.get('code')}: {error.get('message')}")


def read_first(path: Path) -> Iterator[dict[str, Any]]:
    """The first lines of a result file, and a word about the rest."""
    with path.open("rb") as file:
        yield from (json.loads(line) for line in islice(file, LINES_SHOWN))
        more = sum(1 for _ in file)
    if more:
        say(f"... and {more} more")


def describe_answer(body: dict[str, Any]) -> str:
    """The text of an answer; for an embedding, how long it is."""
    transcript = body.get("text")
    if isinstance(transcript, str):
        return transcript.strip()
    for choice in body.get("choices", ()):
        text = choice["message"].get("content") if "message" in choice else choice.get("text")
        return text.strip() if text else json.dumps(choice)
    for item in body.get("data", ()):
        return f"an embedding of {len(item['embedding'])} numbers" if "embedding" in item else json.dumps(item)
    texts = [part["text"] for item in body.get("output", ()) for part in item.get("content") or () if part.get("text")]
    return "".join(texts) or json.dumps(body)


def name_reason(error: together.APIStatusError) -> str:
    """The server's own sentence out of its error object."""
    body = error.body
    if isinstance(body, dict):
        body = body.get("error", body)
        if isinstance(body, dict) and body.get("message"):
            return str(body["message"])
    return error.message


def say(text: str) -> None:
    """Progress and problems; standard output is for answers."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
