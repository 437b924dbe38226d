// Asks questions: the server processes each question once, even if it is sent several times.
// The page defines `show` and `announce`.
"use strict";

// The part of the conversation that is sent with a question. The server has its own limits, and returns an error.
const MOST_TURNS = 30;
const MOST_CHARACTERS = 100_000;

// Status codes of a proxy while the server restarts. Errors of the server itself are JSON.
const AWAY = [502, 503, 504];

const isAway = (response) =>
  AWAY.includes(response.status) && !response.headers.get("Content-Type")?.startsWith("application/json");

const byId = (id) => document.getElementById(id);
const asking = new Map(); // {key of the turn: {isLost, wake}}

// Browsers provide randomUUID only over HTTPS or on localhost.
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return crypto.randomUUID?.() ?? [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function post(url, { body = {}, headers = {} } = {}) {
  return fetch(url, {
    method: "POST",
    headers: {
      Accept: "application/json",
      "Content-Type": "application/json",
      "X-CSRFToken": byId("ask").elements.csrfmiddlewaretoken.value,
      ...headers,
    },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(ASK_SECONDS * 1000),
  });
}

// The previous messages and the question.
function messages(key) {
  const turns = Conversation.turns();
  const index = turns.findIndex((turn) => turn.key === key);
  const said = [{ role: "user", content: turns[index].question }];
  let left = MOST_CHARACTERS;
  for (const { question, text } of turns.slice(Math.max(0, index - MOST_TURNS), index).reverse()) {
    left -= question.length + text.length;
    if (left < 0) break;
    if (text) said.unshift({ role: "user", content: question }, { role: "assistant", content: text });
  }
  return said;
}

// Send the question of a turn, and retry while the server is not available. The turn has all data, so a reloaded page can
// continue, and the idempotency key makes the server process it only once.
async function ask(key) {
  const attempt = { isLost: false, wake: () => {} };
  const { attempt: id } = Conversation.turn(key);
  const isAsked = () => Conversation.turn(key)?.attempt === id && Conversation.turn(key).state === "asking";
  let pause = 0;
  asking.set(key, attempt);
  while (isAsked()) {
    show();
    const response = await send(Conversation.turn(key), id);
    if (response && !isAway(response)) {
      await take(key, isAsked, response);
      break;
    }
    attempt.isLost = true;
    show();
    pause = longer(pause);
    await new Promise((resolve) => {
      attempt.wake = resolve;
      setTimeout(resolve, pause * 1000);
    });
  }
  if (asking.get(key) === attempt) asking.delete(key);
  show();
}

async function send({ key, from }, id) {
  const headers = { "Idempotency-Key": id };
  try {
    if (from) {
      const response = await post(from.regenerate_url, { headers });
      if (response.status !== 404 && response.status !== 403) return response; // otherwise ask as if for the first time
    }
    return await post(byId("chat").dataset.generations, { headers, body: { messages: messages(key) } });
  } catch {
    return null;
  }
}

async function take(key, isAsked, response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok || !body.events_url) {
    if (isAsked()) refuse(key, response, body.error ?? {});
    return;
  }
  const { id, url, events_url, cancel_url, regenerate_url } = body;
  const generation = { id, url, events_url, cancel_url, regenerate_url };
  if (isAsked()) Conversation.change(key, { state: "answering", generation, from: null });
  else if (Conversation.turn(key)?.generation?.id !== id) cancel(generation); // the user has stopped it
}

function refuse(key, response, { code, message = `the server answered with status ${response.status}.` }) {
  const after = Number(response.headers.get("Retry-After"));
  let words = message;
  if (response.status === 401) words = "that is for those who are logged in.";
  else if (code === "csrf") words = "your login has changed. Load the page again, and ask again.";
  else if (after) words = `${message} Try again in ${after} ${after === 1 ? "second" : "seconds"}.`;
  Conversation.change(key, { state: "unsent", error: { status: response.status, message: words } });
  announce(`Not asked: ${words}`);
}

// Cancel a generation. Resolves to an error text, or "".
async function cancel(generation) {
  try {
    const response = await post(generation.cancel_url);
    return response.ok ? "" : `the server answered with status ${response.status}.`;
  } catch {
    return "the server cannot be reached.";
  }
}
