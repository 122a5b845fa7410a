// Asks the gateway. The token, where one is needed, lives as long as the browser's tab.

const TOKEN = "evenkeel.token";
const ANSWER_MS_MAX = 30_000;
const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 10_000;

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (text) => sessionStorage.setItem(TOKEN, text),
  clear: () => sessionStorage.removeItem(TOKEN),
};

// What the gateway refused, or that it did not answer (status 0).
export class Problem extends Error {
  constructor(status, title, detail, body = {}) {
    super(detail);
    Object.assign(this, { status, title, body, reason: body.reason });
  }
}

let unauthorized = () => {};
// Called whenever the gateway does not know who asks.
export const onUnauthorized = (callback) => (unauthorized = callback);

async function send(method, path, { body, signal, headers = {} } = {}) {
  const all = { ...headers };
  if (token.get()) all.authorization = `Bearer ${token.get()}`;
  if (body !== undefined) all["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers: all, signal, cache: "no-store", credentials: "same-origin", body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "No answer", error.name === "TimeoutError" ? "the gateway did not answer in time; look whether it is overloaded" : "the gateway cannot be reached; look whether it runs");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const esc = problem.error?.error_message;
  const failed = new Problem(response.status, problem.title ?? `HTTP ${response.status}`, problem.detail ?? esc ?? response.statusText, problem);
  if (response.status === 401) unauthorized(failed);
  throw failed;
}

export async function ask(method, path, options = {}) {
  const response = await send(method, path, { ...options, signal: options.signal ?? AbortSignal.timeout(ANSWER_MS_MAX) });
  return { value: await response.json(), location: response.headers.get("location") };
}

export const get = async (path, options) => (await ask("GET", path, options)).value;

// Server-sent events, with a token, which EventSource cannot send. `take(name, data)` returns true when no more are wanted;
// a stream that breaks is opened anew. `state(text, error)` hears how the connection is. Returns how to end it.
export function stream(path, take, state = () => {}) {
  const ending = new AbortController();
  const run = async () => {
    let pause = RETRY_MS_MIN;
    while (!ending.signal.aborted) {
      try {
        const response = await send("GET", path, { signal: ending.signal, headers: { accept: "text/event-stream" } });
        state("live");
        pause = RETRY_MS_MIN;
        if (await events(response.body, take)) return;
        state("reconnecting");
      } catch (error) {
        if (ending.signal.aborted) return;
        state(error.status === 401 ? "signed out" : "reconnecting", error);
        if ([400, 401, 403, 404].includes(error.status)) return;
      }
      await new Promise((resolve) => setTimeout(resolve, pause * (0.75 + Math.random() / 2)));
      pause = Math.min(2 * pause, RETRY_MS_MAX);
    }
  };
  run();
  return () => ending.abort();
}

async function events(body, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, name, data] = ["", "message", []];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return false;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((text) => text.replace(/\r$/, ""))) {
      if (line === "") {
        if (data.length && take(name, JSON.parse(data.join("\n"))) === true) {
          await reader.cancel();
          return true;
        }
        [name, data] = ["message", []];
      } else if (line.startsWith("event:")) name = line.slice(6).trim();
      else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
    }
  }
}
