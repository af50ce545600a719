// The service as seen from the page: requests as values, which can be sent, or shown as curl and Python.

let key = sessionStorage.getItem("key") ?? "";

export function useKey(value) {
  key = value.trim();
  sessionStorage.setItem("key", key);
}

/** An answer other than 2xx: `message` is a sentence for people, `status` the HTTP status, 0 when nobody answered. */
export class Refused extends Error {
  constructor(problem) {
    super(problem.detail);
    this.title = problem.title;
    this.status = problem.status;
    this.requestId = problem.request_id;
  }
}

/**
 * Sends a request, whose body is a file, a JSON document, or nothing.
 * @param {string} path
 * @param {{method?: string, query?: [string, string][], file?: {field: string, blob: Blob, name: string}, document?: object, signal?: AbortSignal, progress?: (share: number) => void}} rest
 */
export async function send(path, { method = "GET", query = [], file, document, signal, progress } = {}) {
  const headers = authorization();
  let body;
  if (file) {
    body = new FormData();
    body.append(file.field, file.blob, file.name);
  } else if (document) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(document);
  }
  let response;
  const stop = progress ? follow((headers["X-Request-ID"] = randomId()), progress) : () => {};
  try {
    response = await fetch(url(path, query), { method, headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused({ title: "No answer", status: 0, detail: "The service cannot be reached. Is it still running?" });
  } finally {
    stop();
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({ title: response.statusText, detail: `The service answered ${response.status}.` }));
  throw new Refused({ status: response.status, ...problem });
}

const authorization = () => (key ? { Authorization: `Bearer ${key}` } : {});

// Not crypto.randomUUID, which only exists on https and localhost.
const randomId = () => [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** Asks now and then how far a request has come; what it returns ends that. */
function follow(id, progress) {
  const timer = setInterval(async () => {
    const answer = await fetch(`/v1/requests/${id}`, { headers: authorization() }).catch(() => undefined);
    const share = answer?.ok ? (await answer.json()).progress : null;
    if (share) progress(share);
  }, 400);
  return () => clearInterval(timer);
}

export const json = async (path, options) => (await send(path, options)).json();

function url(path, query) {
  const text = new URLSearchParams(query).toString();
  return path + (text ? `?${text}` : "");
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/**
 * The same request as a line for a shell; with `save` the answer is a PNG file, and a document is read from request.json.
 * A sample of the service is fetched first, so that the line works wherever it is pasted.
 */
export function asCurl(path, { query = [], file, document, save }) {
  const start = key ? 'curl --fail-with-body -H "Authorization: Bearer $ONNXPLAIN_KEY"' : "curl --fail-with-body";
  const words = [start, document ? "--json @request.json" : `-F ${quoted(`${file.field}=@${file.name}`)}`];
  if (save) words.push("-H 'Accept: image/png'", `-o ${quoted(save)}`);
  words.push(quoted(location.origin + url(path, query)));
  const fetched = file?.blob.origin ? `${start} -sO ${quoted(location.origin + file.blob.origin)} &&\n` : "";
  return fetched + words.join(" \\\n  ") + "\n";
}

/** The same request in Python. */
export function asPython(path, { query = [], file, document, save }) {
  const text = (value) => JSON.stringify(value);
  const parameters = query.map(([name, value]) => `(${text(name)}, ${text(value)})`).join(", ");
  const content = file?.blob.origin ? `service.get(${text(file.blob.origin)}).raise_for_status().content` : `open(${text(file?.name)}, "rb")`;
  const headers = key ? `, headers={"Authorization": f"Bearer {os.environ['ONNXPLAIN_KEY']}"}` : "";
  return [
    ...(document ? ["import json"] : []),
    ...(key ? ["import os"] : []),
    ...(document || key ? [""] : []),
    "import httpx",
    "",
    `service = httpx.Client(base_url=${text(location.origin)}${headers}, timeout=600)`,
    "answer = service.post(",
    `    ${text(path)},`,
    ...(parameters ? [`    params=[${parameters}],`] : []),
    ...(file ? [`    files={${text(file.field)}: (${text(file.name)}, ${content})},`] : []),
    ...(document ? ['    json=json.load(open("request.json")),'] : []),
    ...(save ? ['    headers={"Accept": "image/png"},'] : []),
    ").raise_for_status()",
    save ? `open(${text(save)}, "wb").write(answer.content)` : "print(answer.json())",
    "",
  ].join("\n");
}
