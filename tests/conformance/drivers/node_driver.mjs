// Calls an npm client library for a test that lives in another process: python_driver.py, for Node and Bun.
//
// Arguments: the package, and `--duplex-half` for Node's fetch to take a stream from a library that does not say
// `duplex: "half"`. The package is looked up from the working directory. `arguments` is an array, in which
// a member {"path": ...} is a stream of that file. The method `form` is none of the library's: it sends a file by FormData.

import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename } from "node:path";
import { createInterface } from "node:readline";

const [name, ...flags] = process.argv.slice(2);
const library = createRequire(`${process.cwd()}/`)(name);
const clients = new Map();

if (flags.includes("--duplex-half")) {
  const plainFetch = globalThis.fetch;
  globalThis.fetch = (url, init) => plainFetch(url, init?.body ? { ...init, duplex: "half" } : init);
}

async function sendForm(client, path, purpose) {
  const form = new FormData();
  form.append("purpose", purpose);
  form.append("file", new Blob([await readFile(path)]), basename(path));
  const headers = { Authorization: `Bearer ${client.apiKey}` };
  const response = await fetch(`${client.baseURL}/files`, { method: "POST", headers, body: form });
  const answer = await response.json();
  if (!response.ok) {
    throw Object.assign(new Error(answer.error.message), { name: "HttpError", status: response.status });
  }
  return answer;
}

const isPath = (value) => typeof value?.path === "string";
const openPath = (value) => (isPath(value) ? createReadStream(value.path) : value);

function readArgument(value) {
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, openPath(each)]));
}

async function call(client, { method, arguments: given = [], collect }) {
  if (method === "form") return sendForm(client, ...given);
  const steps = method.split(".");
  const last = steps.pop();
  const owner = steps.reduce((found, step) => found[step], client);
  const result = owner[last](...given.map(readArgument));
  if (collect) {
    const found = [];
    for await (const each of result) found.push(each);
    return found;
  }
  const found = await result;
  if (found instanceof Response) return found.text();
  // A page holds the client, and with it everything.
  return Array.isArray(found?.data) ? { data: found.data, has_more: found.has_more } : found;
}

function describe(error) {
  const { status = null, code = null, type = null, param = null, requestID = null } = error ?? {};
  const kind = error?.constructor?.name ?? typeof error;
  const message = [error?.message ?? error, error?.cause?.message].filter(Boolean).join(": ");
  return { kind, status, message, code, type, param, request_id: requestID };
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const key = JSON.stringify(request.options ?? {});
  let answer;
  try {
    if (!clients.has(key)) clients.set(key, new library.default(request.options));
    answer = { result: await call(clients.get(key), request) };
  } catch (error) {
    answer = { error: describe(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
