/**
 * A whole batch through the `together-ai` SDK: check, upload, create, poll, download, print.
 *
 * Node 18.3 or newer:   npm install together-ai tsx
 *                       npx tsx batch_workflow.ts --input requests.jsonl --output answers.jsonl
 * Bun:                  bun add together-ai
 *                       bun batch_workflow.ts --input requests.jsonl --output answers.jsonl
 *
 * Options: --input FILE (without it a few samples are run), --model, --output, --errors, --interval SECONDS,
 * --base-url URL, --endpoint PATH, --batch-id ID (take up a batch that was made before), --force (replace results).
 *
 * The server is --base-url or TOGETHER_BASE_URL; TOGETHER_API_KEY is needed only if the server has keys. Progress goes
 * to standard error, answers to standard output.
 *
 * Exit codes: 0 every request was answered, 1 the batch has ended but some were not, 2 nothing could be done.
 */

import { createReadStream, createWriteStream } from "node:fs";
import { access, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { ReadableStream } from "node:stream/web";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

import Together from "together-ai";

const DEFAULT_URL = "http://127.0.0.1:8484";
const SAMPLE_MODEL = "smollm2-135m-instruct";
// Of which there are samples; the server may serve more.
const ENDPOINTS = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"];
const QUESTIONS = [
  "What is the capital of France?",
  "Name three primary colours.",
  "Translate 'good morning' into Spanish.",
  "What is 17 plus 25?",
];
const FINAL = new Set(["COMPLETED", "FAILED", "EXPIRED", "CANCELLED"]);
const CUSTOM_ID_LENGTH_MAX = 64;
const PROBLEMS_SHOWN = 10;
const LINES_SHOWN = 20;
// While polling only: a server that is being restarted keeps its batches, so it is worth a minute's patience.
const POLL_RETRIES = 10;

type Json = Record<string, any>;
type Options = ReturnType<typeof readOptions>;

/** Nothing can be done with what was given; the message says why. */
class Unusable extends Error {}

/** Run the workflow; gives the exit code. */
async function main(): Promise<number> {
  const options = readOptions();
  // Without keys on the server any key will do, but the SDK insists on one.
  const apiKey = process.env["TOGETHER_API_KEY"] || "not-needed";
  const client = new Together({ baseURL: options.baseURL, apiKey });
  for (const path of [options.output, options.errors]) {
    if (!options.force && (await exists(path))) throw new Unusable(`${path} exists already; --force replaces it.`);
  }
  return finish(client, options.batchId ?? (await submit(client, options)), options);
}

/** Read the command line; raises Unusable for what it does not know. */
function readOptions() {
  const text = { type: "string" } as const;
  const flag = { type: "boolean", default: false } as const;
  const known = {
    input: text, model: text, output: text, errors: text, interval: text, endpoint: text,
    "base-url": text, "batch-id": text, force: flag,
  };
  let given;
  try {
    given = parseArgs({ options: known }).values;
  } catch (error) {
    throw new Unusable((error as Error).message);
  }
  const endpoint = given.endpoint ?? "/v1/chat/completions";
  if (!given.input && !given["batch-id"] && !ENDPOINTS.includes(endpoint)) {
    throw new Unusable(`There are samples for ${ENDPOINTS.join(", ")} only; --input gives a file for ${endpoint}.`);
  }
  const intervalS = Number(given.interval ?? 5);
  if (!(intervalS >= 0)) throw new Unusable("--interval must be a number of seconds.");
  const url = given["base-url"] ?? (process.env["TOGETHER_BASE_URL"] || DEFAULT_URL);
  return {
    input: given.input,
    model: given.model,
    output: given.output ?? "batch_output.jsonl",
    errors: given.errors ?? "batch_errors.jsonl",
    intervalMs: intervalS * 1000,
    // This SDK expects the /v1 in its base URL.
    baseURL: `${url.replace(/\/+$/, "").replace(/\/v1$/, "")}/v1`,
    endpoint,
    batchId: given["batch-id"],
    force: given.force ?? false,
  };
}

/** Check and upload the input, and make a batch of it; gives the batch's id. */
async function submit(client: Together, options: Options): Promise<string> {
  const path = options.input ?? join(dirname(options.output), "batch_samples.jsonl");
  if (!options.input) await writeSamples(path, options.endpoint, options.model ?? SAMPLE_MODEL);
  say(`${path}: ${await checkInput(path, options.model)} requests`);
  const fileId = await upload(path, options.baseURL, client.apiKey);
  say(`uploaded as ${fileId}`);
  const created = await client.batches.create({
    input_file_id: fileId,
    // The SDK lists the endpoints of the hosted service only.
    endpoint: options.endpoint as Together.Batches.BatchCreateParams["endpoint"],
    ...(options.model ? { model_id: options.model } : {}),
  });
  if (created.warning) say(`warning: ${created.warning}`);
  // `create` wraps the batch in `job`; `retrieve` does not.
  if (!created.job?.id) throw new Unusable(`${options.baseURL} does not answer as a batch server does.`);
  say(`created batch ${created.job.id}`);
  return created.job.id;
}

/**
 * Upload a file in one request; gives its id.
 *
 * Not `client.files.upload`: on Node that fails inside the SDK, and anywhere it ignores the client's base URL.
 */
async function upload(path: string, baseURL: string, apiKey: string): Promise<string> {
  const form = new FormData();
  form.set("purpose", "batch-api");
  form.set("file", new Blob([await readFile(path)]), basename(path));
  const headers = { Authorization: `Bearer ${apiKey}` };
  const response = await fetch(`${baseURL}/files`, { method: "POST", headers, body: form });
  const text = await response.text();
  if (!response.ok) throw new Unusable(`the upload was refused: ${nameReason(text) ?? `HTTP ${response.status}`}`);
  return JSON.parse(text).id;
}

/** Write a few requests in the form that the endpoint takes. */
async function writeSamples(path: string, endpoint: string, model: string): Promise<void> {
  const forms: Record<string, (question: string) => Json> = {
    "/v1/chat/completions": (content) => ({ messages: [{ role: "user", content }], max_tokens: 64, temperature: 0 }),
    "/v1/completions": (prompt) => ({ prompt, max_tokens: 64, temperature: 0 }),
    "/v1/embeddings": (input) => ({ input }),
    "/v1/responses": (input) => ({ input, max_output_tokens: 64, temperature: 0 }),
  };
  const lines = QUESTIONS.map((question, index) => {
    const body = { model, ...forms[endpoint]?.(question) };
    return `${JSON.stringify({ custom_id: `sample-${index + 1}`, body })}\n`;
  });
  await writeFile(path, lines.join(""));
}

/** Count the requests; raises Unusable with line numbers for what the server would refuse anyway. */
async function checkInput(path: string, model: string | undefined): Promise<number> {
  const problems: string[] = [];
  const seen = new Map<string, number>();
  let number = 0;
  for await (const line of readLines(path)) {
    number += 1;
    if (!line.trim()) continue;
    const [customId, fault] = checkLine(line, model);
    const before = customId === undefined ? undefined : seen.get(customId);
    const problem = before ? `custom_id ${JSON.stringify(customId)} is taken by line ${before}` : fault;
    if (customId !== undefined && !before) seen.set(customId, number);
    if (problem) problems.push(`line ${number}: ${problem}`);
  }
  if (problems.length) {
    const more = problems.length > PROBLEMS_SHOWN ? [`and ${problems.length - PROBLEMS_SHOWN} more`] : [];
    throw new Unusable([`${path} cannot be run:`, ...problems.slice(0, PROBLEMS_SHOWN), ...more].join("\n  "));
  }
  if (!seen.size) throw new Unusable(`${path} has no requests.`);
  return seen.size;
}

/** The line's custom_id, if it has a usable one, and what is wrong with the line. */
function checkLine(line: string, model: string | undefined): [string | undefined, string | undefined] {
  let request: Json;
  try {
    // A byte order mark before the first line is fine for the server, but not for JSON.parse.
    request = JSON.parse(line.trim());
  } catch (error) {
    return [undefined, `not valid JSON: ${(error as Error).message}`];
  }
  if (!isObject(request) || !isObject(request["body"])) return [undefined, "must be an object with custom_id and body"];
  const customId: unknown = request["custom_id"];
  // Counted as the server does, in characters and not in UTF-16 units.
  if (typeof customId !== "string" || !customId || [...customId].length > CUSTOM_ID_LENGTH_MAX) {
    return [undefined, `custom_id must be a string of 1 to ${CUSTOM_ID_LENGTH_MAX} characters`];
  }
  const named = model || request["body"]["model"];
  return [customId, named ? undefined : "body.model is missing; --model gives one to such lines"];
}

/** Wait for the batch, fetch and show its results; gives the exit code. */
async function finish(client: Together, batchId: string, options: Options): Promise<number> {
  const batch = await wait(client, batchId, options.intervalMs);
  // Those that may be replaced: what is there afterwards is of this batch.
  for (const path of [options.output, options.errors]) await rm(path, { force: true });
  if (batch.status === "FAILED") throw new Unusable(`the batch failed, and nothing was run: ${batch.error}`);
  if (batch.output_file_id) {
    await download(client, batch.output_file_id, options.output);
    await showFirst(options.output, (result) => {
      console.log(`${result["custom_id"]}: ${describeAnswer(result["response"]["body"])}`);
    });
    say(`answers: ${options.output}`);
  }
  if (batch.error_file_id) {
    await download(client, batch.error_file_id, options.errors);
    await showFirst(options.errors, (result) => {
      say(`${result["custom_id"]}: ${result["error"].code}: ${result["error"].message}`);
    });
    say(`errors: ${options.errors}`);
  }
  // A COMPLETED batch can have failed lines: they are the ones in the error file.
  return batch.status === "COMPLETED" && !batch.error_file_id ? 0 : 1;
}

/** Poll until the batch has ended, and tell whenever something has changed. */
async function wait(client: Together, batchId: string, intervalMs: number): Promise<Together.Batches.BatchJob> {
  for (let told = ""; ; await sleep(intervalMs)) {
    const batch = await client.batches.retrieve(batchId, { maxRetries: POLL_RETRIES });
    const now = `${batch.status} ${(batch.progress ?? 0).toFixed(1)} %`;
    if (now !== told) say(now);
    told = now;
    if (FINAL.has(batch.status ?? "")) return batch;
  }
}

/** Stream a file to disk; it has its name only once it is whole. */
async function download(client: Together, fileId: string, path: string): Promise<void> {
  const response = await client.files.content(fileId);
  await pipeline(Readable.fromWeb(response.body as ReadableStream), createWriteStream(`${path}.partial`));
  await rename(`${path}.partial`, path);
}

/** Show the first lines of a result file, and say how many more there are. */
async function showFirst(path: string, show: (result: Json) => void): Promise<void> {
  let number = 0;
  for await (const line of readLines(path)) {
    if (number < LINES_SHOWN) show(JSON.parse(line));
    number += 1;
  }
  if (number > LINES_SHOWN) say(`... and ${number - LINES_SHOWN} more`);
}

/** The lines of a file. Not node:readline, which also breaks at separators that JSON allows inside a string. */
async function* readLines(path: string): AsyncGenerator<string> {
  let rest = "";
  for await (const chunk of createReadStream(path, { encoding: "utf8" })) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
  if (rest) yield rest;
}

/** The text of an answer; for an embedding, how long it is. */
function describeAnswer(body: Json): string {
  if (typeof body["text"] === "string") return body["text"].trim();
  const choice = body["choices"]?.[0];
  if (choice) return (choice.message?.content ?? choice.text)?.trim() || JSON.stringify(choice);
  const embedding = body["data"]?.[0]?.embedding;
  if (embedding) return `an embedding of ${embedding.length} numbers`;
  const parts: Json[] = (body["output"] ?? []).flatMap((item: Json) => item["content"] ?? []);
  return parts.map((part) => part["text"] ?? "").join("") || JSON.stringify(body);
}

/** The server's own sentence out of its error object, if it is one. */
function nameReason(text: string): string | undefined {
  try {
    return JSON.parse(text).error.message;
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(() => true, () => false);
}

/** Progress and problems; standard output is for answers. */
function say(text: string): void {
  console.error(text);
}

/** One line about what went wrong; what nobody foresaw keeps its trace. */
function explain(error: unknown): string {
  if (error instanceof Unusable) return error.message;
  if (error instanceof Together.AuthenticationError) return "the server does not accept this API key; set TOGETHER_API_KEY.";
  if (error instanceof Together.APIConnectionError) return "the server cannot be reached; --base-url names another.";
  if (error instanceof Together.APIError) {
    return `the server says: ${nameReason(JSON.stringify(error.error)) ?? error.message}`;
  }
  const { code, cause, path, message, stack } = error as NodeJS.ErrnoException;
  if (code && path) return message;
  // What fetch and Bun throw where no connection, or no whole answer, could be had.
  const fetchFailed = error instanceof TypeError && (cause || message === "terminated");
  if (fetchFailed || code === "ConnectionRefused") return `the server cannot be reached or broke off: ${message}`;
  return stack ?? String(error);
}

main().then(
  (code) => { process.exitCode = code; },
  (error: unknown) => {
    say(`error: ${explain(error)}`);
    process.exitCode = 2;
  },
);
