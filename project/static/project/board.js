// The live board: shows the events of a channel and the state of the connection, and publishes.
// Data from the stream is always shown as text, never as HTML.
import { Stream } from "../streams/streams.js";

const MOST_SHOWN = 20;
const LONGEST_SHOWN = 2000; // characters of an event's data
const COUNT_MILLISECONDS = 3000;
const ANNOUNCE_MILLISECONDS = 1000;

const byId = (id) => document.getElementById(id);
const board = byId("board");
const events = byId("events");
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });

// --- The events ---

// The page's messages were read after its cursor, so the stream can repeat the newest of them.
const fromPage = new Set([...events.children].map((item) => item.dataset.id));

for (const time of events.querySelectorAll("time")) time.textContent = clock.format(new Date(time.dateTime));

function shorten(text) {
  const rest = text.length - LONGEST_SHOWN;
  return rest > 0 ? `${text.slice(0, LONGEST_SHOWN)} … and ${rest.toLocaleString("en")} characters more` : text;
}

function add(event, replayed) {
  const now = new Date();
  const item = byId("event").content.firstElementChild.cloneNode(true);
  item.dataset.id = event.lastEventId;
  item.querySelector(".id").append(event.lastEventId);
  item.querySelector(".type").textContent = event.type;
  item.querySelector(".badge").hidden = !replayed;
  item.querySelector("time").dateTime = now.toISOString();
  item.querySelector("time").textContent = clock.format(now);
  item.querySelector(".data").textContent = shorten(event.data);
  item.classList.add("fresh");
  events.prepend(item);
  while (events.children.length > MOST_SHOWN) events.lastElementChild.remove();
  byId("empty").hidden = true;
  announce(event);
}

// Announce at most one sentence per second, or a screen reader would be busy for minutes after a burst.
let unannounced = [];
function announce(event) {
  if (unannounced.push(event) > 1) return;
  setTimeout(() => {
    const newest = unannounced.at(-1);
    const count = unannounced.length === 1 ? "Event" : `${unannounced.length} new events, the newest is event`;
    byId("announcement").textContent = `${count} ${newest.lastEventId}, ${newest.type}: ${newest.data.slice(0, 200)}`;
    unannounced = [];
  }, ANNOUNCE_MILLISECONDS);
}

// --- The connection ---

const STATES = {
  connecting: "Connecting …",
  live: "Live",
  reconnecting: "Reconnecting …",
  closed: "Closed",
};
let stream = null;
let returned = false; // true after the first connection

function show(state, more = "") {
  byId("state").dataset.state = state;
  byId("state-word").textContent = STATES[state];
  byId("state-more").textContent = more;
  const drop = byId("drop");
  drop.hidden = false;
  drop.textContent = state === "closed" ? "Connect again" : "Drop the connection";
}

// A stream starts with a checkpoint or a reset. Then it replays missed events, and a second checkpoint marks live events.
let stage = "begin";
let replayed = [];

function begin() {
  stage = "begin";
  replayed = [];
}

function checkpoint() {
  if (stage === "begin") stage = "replay";
  else if (stage === "replay") {
    stage = "live";
    if (returned) tellReplay();
  }
}

function tellReplay() {
  const ids = replayed.length > 6 ? [...replayed.slice(0, 3), "…", ...replayed.slice(-2)] : replayed;
  const several = replayed.length > 1;
  byId("replay").textContent = replayed.length
    ? `While you were away, ${replayed.length} ${several ? "events were published and have" : "event was published and has"} been replayed: ${ids.join(", ")}.`
    : "While you were away, nothing was published, so nothing was replayed.";
  byId("replay").hidden = false;
}

function receive(event) {
  if (!(event instanceof MessageEvent)) return; // not a message whose event type is "error"
  if (fromPage.delete(event.lastEventId)) return;
  if (stage === "replay") replayed.push(event.lastEventId);
  add(event, stage === "replay" && returned);
}

function reset(event) {
  stage = "replay";
  const { reason, requested, head } = JSON.parse(event.data);
  const why = {
    pruned: `Events after ${requested} were deleted from the log before they reached you.`,
    "unknown-id": `The log has no event ${requested}; its newest is ${head}. The log might have been replaced.`,
    "malformed-id": `“${requested}” is no id that the log has given.`,
  };
  byId("reset").textContent = `You might have missed events. ${why[reason] ?? ""} The remaining events follow.`;
  byId("reset").hidden = false;
  if (reason !== "pruned") {
    // The replay starts at the oldest message. Do not mix it with the messages of another log.
    fromPage.clear();
    events.replaceChildren();
  }
}

// The event types to listen for: those of the form, and those of the messages on the page.
const types = new Set(board.dataset.types.split(" "));
for (const type of events.querySelectorAll(".type")) types.add(type.textContent);

function connect() {
  const url = new URL(board.dataset.stream, location.href);
  if (stream) url.searchParams.set("last_event_id", stream.lastEventId);
  show(stream ? "reconnecting" : "connecting");
  stream = new Stream(url, {
    onReset: reset,
    // A response that is not a stream, a lost connection, or a stream that failed on the server.
    onError: ({ status, message }) => {
      const words = status ? message : "The connection was lost. Events that you miss now will be replayed.";
      byId("state-more").textContent = words;
    },
  });
  stream.addEventListener("stream-state", () => {
    begin();
    if (stream.state === "open") {
      show("live");
      count();
    } else if (stream.state === "connecting") {
      returned = true;
      show("reconnecting", "The connection was lost. Events that you miss now will be replayed.");
    }
  });
  for (const type of types) stream.addEventListener(type, receive);
  stream.addEventListener("stream-checkpoint", checkpoint);
}

byId("drop").addEventListener("click", () => {
  byId("replay").hidden = true;
  if (stream.state === "closed") {
    connect();
    return;
  }
  stream.close();
  returned = true;
  show("closed", "You dropped the connection. Publish something, then connect again: it will be replayed.");
});

// --- The number of connections ---

async function count() {
  try {
    const response = await fetch(board.dataset.listeners, { headers: { Accept: "application/json" } });
    const { listeners } = await response.json();
    const clients = listeners === 1 ? "1 client listens" : `${listeners} clients listen`;
    byId("listeners").textContent = `${clients} in this server process.`;
    byId("listeners").hidden = false;
  } catch {
    byId("listeners").hidden = true; // the state shows the problem
  }
}

setInterval(() => {
  if (stream.state !== "connecting" && document.visibilityState === "visible") count();
}, COUNT_MILLISECONDS);

// --- Publishing ---

const form = byId("publish");

function showErrors(errors) {
  let first = null;
  for (const field of form.querySelectorAll("select, textarea")) {
    const texts = errors[field.name] ?? [];
    const place = byId(`${field.id}_error`);
    place.textContent = texts.join(" ");
    place.hidden = !texts.length;
    if (texts.length) {
      field.setAttribute("aria-invalid", "true");
      field.setAttribute("aria-describedby", place.id);
      first ??= field;
    } else {
      field.removeAttribute("aria-invalid");
      field.removeAttribute("aria-describedby");
    }
  }
  first?.focus();
}

async function publish(submission) {
  submission.preventDefault();
  const button = form.querySelector("button");
  const published = byId("published");
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  published.textContent = "Publishing …";
  const sent = form.elements.data.value;
  const place = document.activeElement;
  try {
    const response = await fetch(form.action, {
      method: "POST",
      body: new FormData(form),
      headers: { Accept: "application/json" },
    });
    const isJson = response.headers.get("Content-Type")?.startsWith("application/json");
    const answer = isJson ? await response.json() : {};
    showErrors(answer.errors ?? {});
    if (response.ok) {
      published.textContent = `Published as event ${answer.position}.`;
      if (form.elements.data.value === sent) form.elements.data.value = ""; // otherwise the user is writing the next one
      if (document.activeElement === place) form.elements.data.focus(); // otherwise the user has moved the focus
    } else if (response.status === 422) {
      published.textContent = "Not published.";
    } else if (response.status === 403) {
      published.textContent = answer.errors?.__all__[0] ?? "Not published: your login has changed. Reload the page.";
    } else {
      published.textContent = `Not published: the server answered with status ${response.status}. Your text is still here.`;
    }
  } catch {
    published.textContent = "Not published: the server cannot be reached. Your text is still here; try again.";
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

form?.addEventListener("submit", publish);

// Ctrl+Enter or Cmd+Enter publishes.
form?.elements.data.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});

connect();
