// The page of the chat: asks questions, shows the conversation with its answers, and shows the current state.
// Untrusted text is always shown as text, never as HTML.
"use strict";

const NEARLY = 40; // pixels
const SHOW_MILLISECONDS = 30; // limits the layout work if many words arrive together

const list = byId("turns");
const form = byId("ask");
const question = byId("question");

const answers = new Map(); // {generation id: answer in progress}
let shown = { turns: [], former: [] };
let stopping = null; // the id of the generation that is being cancelled
let trouble = ""; // the error of the last action

function announce(words) {
  byId("announcement").textContent = words;
}

// --- Display ---

const REASONS = {
  length: "The answer was cut off at its maximum length.",
  content_filter: "The model's provider withheld the rest.",
};

function outcome({ state, error, finish_reason }) {
  const words = {
    done: REASONS[finish_reason] ?? "",
    failed: `The answer failed. ${error?.message ?? ""}`,
    cancelled: "Stopped.",
    interrupted: "The server was stopped during the answer. Ask again?",
    gone: "The server no longer has this answer, because answers expire. Ask again?",
    refused: "You can no longer read this answer: your login has changed, or a day has passed. Ask again?",
    unsent: `Not asked: ${error?.message ?? ""}`,
  };
  return words[state] ?? "";
}

function setText(element, text) {
  const node = element.firstChild ?? element.appendChild(new Text());
  if (text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
  else node.data = text;
}

function showTurn(turn) {
  let item = [...list.children].find((each) => each.dataset.key === turn.key);
  if (!item) {
    item = byId("turn").content.firstElementChild.cloneNode(true);
    item.dataset.key = turn.key;
    item.querySelector(".question .text").textContent = turn.question;
    list.append(item);
  }
  item.dataset.state = turn.state;
  const text = answers.get(turn.generation?.id)?.text ?? turn.text;
  setText(item.querySelector(".answer .text"), text);
  item.querySelector(".answer").hidden = !text;
  const note = item.querySelector(".note");
  const words = outcome(turn);
  if (note.textContent !== words || note.hidden) {
    note.textContent = words;
    note.hidden = !words;
    if (turn.error?.status === 401) note.append(" ", byId("login").content.cloneNode(true));
  }
}

const isBusy = (turn) => turn?.state === "asking" || turn?.state === "answering";

// Returns the state for the dot, and its text.
function standing(turn) {
  if (!isBusy(turn)) return ["idle", "Ready"];
  const answer = answers.get(turn.generation?.id);
  if ((turn.state === "asking" ? asking.get(turn.key) : answer)?.isLost) {
    return ["reconnecting", "Connection lost, trying again …"];
  }
  if (stopping && stopping === turn.generation?.id) return ["connecting", "Stopping …"];
  if (turn.state === "asking") return ["connecting", "Asking …"];
  if (answer?.text) return ["live", "Answering …"];
  return ["connecting", "Waiting for the first word …"];
}

function showControls(turns, former) {
  const turn = turns.at(-1);
  const [state, words] = standing(turn);
  byId("state").dataset.state = state;
  byId("state-word").textContent = words;
  byId("state-more").textContent = trouble;
  byId("empty").hidden = turns.length > 0;
  byId("kept").hidden = Conversation.isKept;
  form.querySelector("[type=submit]").setAttribute("aria-disabled", isBusy(turn));
  byId("again").textContent = turn?.state === "unsent" ? "Ask again" : "Regenerate";
  hide(byId("stop"), !isBusy(turn));
  hide(byId("again"), !turn || isBusy(turn));
  hide(byId("new"), !turns.length);
  hide(byId("restore"), turns.length || !former.length);
}

function hide(button, isHidden) {
  if (isHidden && button === document.activeElement) question.focus();
  button.hidden = isHidden;
}

// How many pixels of the conversation's end the form covers.
function covered() {
  return (list.lastElementChild?.getBoundingClientRect().bottom ?? 0) - form.getBoundingClientRect().top;
}

function toTheEnd() {
  if (covered() > 0) scrollBy(0, covered());
}

// Keep the newest words in view if they were, but do not scroll if the user has scrolled up.
function inSight(act) {
  const wasInSight = covered() < NEARLY;
  act();
  if (wasInSight) toTheEnd();
}

// Draw the stored conversation, which another tab might have changed.
function show() {
  shown = Conversation.read();
  const { turns, former } = shown;
  const answering = turns.filter((turn) => turn.state === "answering");
  for (const [id, answer] of answers) {
    if (answering.some((turn) => turn.generation.id === id)) continue;
    answer.close();
    answers.delete(id);
  }
  for (const turn of answering) if (!answers.has(turn.generation.id)) follow(turn);
  inSight(() => {
    for (const item of [...list.children]) {
      if (!turns.some((turn) => turn.key === item.dataset.key)) item.remove();
    }
    turns.forEach(showTurn);
    showControls(turns, former);
  });
}

function follow({ key, generation }) {
  let wasLost = false;
  let hasBegun = false;
  let timer = null;
  const showSoon = () => {
    timer = null;
    const turn = shown.turns.find((each) => each.key === key);
    if (turn?.generation?.id === generation.id) inSight(() => (showTurn(turn), showControls(shown.turns, shown.former)));
  };
  const answer = new Answer(generation, {
    changed() {
      if (answer.isLost !== wasLost) announce(answer.isLost ? "Connection lost, trying again." : "Connected again.");
      else if (answer.text && !hasBegun) announce("The answer begins.");
      wasLost = answer.isLost;
      hasBegun = Boolean(answer.text);
      timer ??= setTimeout(showSoon, SHOW_MILLISECONDS);
    },
    ended(result) {
      answers.delete(generation.id);
      if (stopping === generation.id) stopping = null;
      const turn = Conversation.turn(key);
      // Another tab might have stored the outcome already, or asked again.
      if (turn?.state === "answering" && turn.generation.id === generation.id) Conversation.change(key, result);
      announce(outcome(result) || "The answer is complete.");
      show();
    },
  });
  answers.set(generation.id, answer);
}

// --- Actions of the user ---

function complain(words) {
  inSight(() => (byId("question-error").textContent = words));
  if (words) question.setAttribute("aria-invalid", "true");
  else question.removeAttribute("aria-invalid");
  if (words) question.focus();
}

form.addEventListener("submit", (submission) => {
  submission.preventDefault();
  const words = question.value.trim();
  const turns = Conversation.turns();
  const isEarly = isBusy(turns.at(-1));
  complain(isEarly ? "Wait for the end of the answer, or stop it." : words ? "" : "Write a question first.");
  if (isEarly || !words) return;
  trouble = "";
  const turn = { key: newKey(), question: words, attempt: newKey(), state: "asking", generation: null, from: null, text: "" };
  Conversation.add(turn);
  question.value = "";
  question.focus();
  ask(turn.key);
  toTheEnd();
});

question.addEventListener("input", () => complain(""));
question.addEventListener("keydown", (event) => {
  // During composition, for example of Chinese, the input method uses Enter.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});

async function stop() {
  const turn = Conversation.turns().at(-1);
  trouble = "";
  if (turn?.state === "asking") {
    const error = { message: "you stopped it before the server had taken it." };
    Conversation.change(turn.key, { state: "unsent", error, attempt: newKey() });
    asking.get(turn.key)?.wake();
  } else if (turn?.state === "answering") {
    stopping = turn.generation.id;
    show();
    const problem = await cancel(turn.generation);
    if (problem && stopping === turn.generation.id && Conversation.turn(turn.key)) {
      stopping = null;
      trouble = `Not stopped: ${problem} Try again.`;
      announce(trouble);
    }
  }
  show();
}

byId("stop").addEventListener("click", stop);

byId("again").addEventListener("click", () => {
  const turn = Conversation.turns().at(-1);
  if (!turn || isBusy(turn)) return;
  trouble = "";
  const asked = { state: "asking", error: null, finish_reason: null, text: "" };
  if (turn.state === "unsent") Conversation.change(turn.key, asked);
  else {
    const from = GONE.includes(turn.state) ? null : turn.generation;
    Conversation.change(turn.key, { ...asked, attempt: newKey(), generation: null, from });
  }
  ask(turn.key);
});

byId("new").addEventListener("click", () => {
  stop(); // the rest would not be visible
  Conversation.begin();
  trouble = "";
  show();
  question.focus();
});

byId("restore").addEventListener("click", () => {
  Conversation.restore();
  show();
  question.focus();
});

addEventListener("storage", (event) => {
  if (event.key === Conversation.KEY || event.key === null) show();
});

addEventListener("online", () => {
  for (const answer of answers.values()) answer.hurry();
  for (const attempt of asking.values()) attempt.wake();
});

show();
toTheEnd();
for (const turn of Conversation.turns()) if (turn.state === "asking") ask(turn.key);
