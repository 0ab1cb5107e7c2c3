// The gateway's own API, with the key that was typed in. The key is kept in this module alone: it is gone with the tab.

let key = "";
const listeners = new Set();

/** Use another key; whoever asked to be told is told. */
export function setKey(secret) {
  if (secret.trim() === key) return;
  key = secret.trim();
  for (const each of listeners) each();
}

/** Whether one was typed in. */
export function hasKey() {
  return key !== "";
}

let known = null;

/** What the gateway says of itself to whoever opens the page. */
export function about() {
  return known ??= ask("page/about");
}

/** Be told when the key changes. */
export function onKey(listener) {
  listeners.add(listener);
}

const refused = new Set();

/** Be told when the gateway does not take the key, or takes it no more. */
export function onRefused(listener) {
  refused.add(listener);
}

/** An error as the API says it. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The answer to a request, as it comes. Throws ApiError. */
export async function send(path, { method = "GET", body, signal } = {}) {
  const used = key, headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method, headers, signal, credentials: "omit", cache: "no-store",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new ApiError(0, "unreachable", "The gateway does not answer.");
  }
  if (response.status === 401 && used === key) for (const each of refused) each();
  if (!response.ok) throw await errorOf(response);
  return response;
}

/** The answer as JSON. Throws ApiError. */
export async function ask(path, options) {
  return (await send(path, options)).json();
}

async function errorOf(response) {
  try {
    const { error } = await response.json();
    return new ApiError(response.status, error.code, error.message);
  } catch {
    return new ApiError(response.status, null, `The gateway answered ${response.status}.`);
  }
}

function broken(problem) {
  throw problem.name === "AbortError" ? problem : new ApiError(0, "broken", "The answer broke off: the gateway has gone.");
}

/** The events of a streamed answer, each as its object. Throws ApiError where the stream says that it broke. */
export async function* events(response) {
  let rest = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read().catch(broken);
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(response.status, event.error.code, event.error.message);
      yield event;
    }
  }
}
