// The server's API: models, and images as a stream of events.

const KEY = "minit2i-key";

/** An answer other than success; `status` is 0 where there was no answer. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The API key, until the tab is closed; until a reload where the browser blocks site data. */
export const apiKey = {
  value: "",
  get() {
    try {
      return sessionStorage.getItem(KEY) ?? this.value;
    } catch {
      return this.value;
    }
  },
  set(value) {
    this.value = value;
    try {
      sessionStorage.setItem(KEY, value);
    } catch {
      // It is in memory.
    }
  },
};

/** The served bundles, as GET /v1/models describes them. */
export async function listModels() {
  return (await (await ask("/v1/models")).json()).data;
}

/** Whether the server takes requests. */
export async function isHealthy() {
  try {
    return (await fetch("/health", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

/**
 * Generate images; yields the events of the stream.
 *
 * @param {object} body of POST /v1/images/generations, or with `image` of /v1/images/edits
 * @param {AbortSignal} signal cancels the request, and the server stops before its next row
 */
export async function* generate(body, signal) {
  const open = new Set(Array(body.n).keys());
  const answer = await ask(...request({ ...body, stream: true }, signal));
  for await (const event of events(answer.body, signal)) {
    if (event.error) throw new ServerError(event.error.message, 500);
    if (event.type.endsWith(".completed")) open.delete(event.image_index);
    yield event;
  }
  if (open.size) throw new ServerError("the server ended before the images were finished", 0);
}

/** Path and options of a request for images: an edit is a form, because it has files. */
function request(body, signal) {
  if (!body.image) {
    const headers = { "Content-Type": "application/json" };
    const options = { method: "POST", headers, body: stringify(body), signal };
    return ["/v1/images/generations", options];
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(body)) {
    if (value instanceof Blob) form.append(name, value, `${name}.png`);
    else form.append(name, String(value));
  }
  return ["/v1/images/edits", { method: "POST", body: form, signal }];
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (apiKey.get()) headers.Authorization = `Bearer ${apiKey.get()}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("the server does not answer", 0);
  }
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({ error: null }));
  throw new ServerError(error?.message ?? `the server answered ${answer.status}`, answer.status);
}

/** JSON with a seed of up to 64 bits, which a number of JavaScript cannot hold. */
function stringify({ seed, ...body }) {
  const text = JSON.stringify(body);
  return seed === undefined ? text : `${text.slice(0, -1)},"seed":${BigInt(seed)}}`;
}

async function* events(stream, signal) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      const parts = text.split("\n\n");
      text = parts.pop();
      for (const part of parts) yield parseEvent(part);
    }
  } catch (error) {
    if (error instanceof ServerError || signal.aborted) throw error;
    throw new ServerError("the connection to the server broke", 0);
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parseEvent(part) {
  const data = part.split("\n").find((line) => line.startsWith("data: ")).slice(6);
  const event = JSON.parse(data);
  // As it was written: parsed, the last digits of a large seed are others.
  const seed = /"seed": ?(\d+)/.exec(data);
  return seed ? { ...event, seed: seed[1] } : event;
}
