// What the page asks of its own server: JSON, and the chat as a stream of events.

import * as kept from "./kept.js";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function headers() {
  const key = kept.get("key");
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

async function answered(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers() });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new ApiError(0, "The server does not answer. Is exosuit serve still running?");
  }
  if (response.ok) return response;
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch {} // a proxy in between speaks its own language
  throw new ApiError(response.status, message);
}

export async function get(path) {
  return (await answered(path, {})).json();
}

export async function post(path, body) {
  return (await answered(path, { method: "POST", body: JSON.stringify(body) })).json();
}

/** Chunks of a chat completion, parsed. */
export async function* chat(body, signal) {
  const whole = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await answered("/v1/chat/completions", {
    method: "POST",
    body: JSON.stringify(whole),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiError(0, "The answer broke off: the server went away.");
    kept += value;
    const lines = kept.split("\n");
    kept = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(500, chunk.error.message);
      yield chunk;
    }
  }
}
