// Composing a broadcast: channels with suggestions, a preview by the server of the exact bytes, who listens, and a test
// that comes back over a real EventSource. Without this script the form still saves and sends.
"use strict";

(() => {
  const { text, show, ask, every } = Streams;
  const byId = (id) => document.getElementById(id);
  const form = byId("compose");
  const payload = form.elements.payload;
  const PREVIEW_MILLISECONDS = 250;
  const COUNT_MILLISECONDS = 3000;
  const SUBMIT_MILLISECONDS = 5000;
  const CHECKED = ["channels", "event", "payload_type", "payload"];

  // As the server takes it. Keyboards of phones add a space after a word.
  const typedType = () => form.elements.event.value.trim();

  // --- Channels: one input for all names becomes a list of them and an input for the next ---

  const stored = form.elements.channels;
  const names = new Set(stored.value.split(/[\s,]+/).filter(Boolean));
  const chips = document.createElement("ul");
  chips.className = "chips";
  const input = document.createElement("input");
  const said = document.createElement("p");
  said.className = "visually-hidden";
  said.setAttribute("role", "status");
  Object.assign(input, { type: "text", autocomplete: "off", autocapitalize: "none", spellcheck: false });
  input.setAttribute("list", "known-channels");
  input.setAttribute("aria-describedby", stored.getAttribute("aria-describedby"));
  input.id = stored.id;
  stored.removeAttribute("id");
  stored.type = "hidden";
  stored.after(chips, input, said);

  function drawChips() {
    chips.replaceChildren(
      ...[...names].map((name) => {
        const chip = document.createElement("li");
        const remove = document.createElement("button");
        remove.type = "button";
        remove.className = "plain";
        remove.textContent = "×";
        remove.setAttribute("aria-label", text("remove", { name }));
        remove.addEventListener("click", () => {
          names.delete(name);
          said.textContent = text("removed", { name });
          changed();
          input.focus();
        });
        const label = document.createElement("span");
        show(label, name);
        chip.append(label, remove);
        return chip;
      }),
    );
    chips.hidden = names.size === 0;
  }

  // What is typed and not yet taken counts as well: somebody may go straight on to the button.
  function storeNames() {
    stored.value = [...new Set([...names, ...input.value.split(/[\s,]+/).filter(Boolean)])].join(" ");
  }

  function take() {
    const typed = input.value.split(/[\s,]+/).filter(Boolean);
    if (!typed.length) return;
    typed.forEach((name) => names.add(name));
    input.value = "";
    said.textContent = text("added", { name: typed.join(" ") });
    wasTyped.add("channels");
    changed();
    count();
  }

  function changed() {
    drawChips();
    storeNames();
    touched();
  }

  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return; // an input method takes these keys for itself
    if (event.key === "Enter" || event.key === "," || event.key === " ") {
      if (event.key !== "Enter" || input.value.trim()) event.preventDefault();
      take();
    } else if (event.key === "Backspace" && !input.value && names.size) {
      const last = [...names].pop();
      names.delete(last);
      said.textContent = text("removed", { name: last });
      changed();
    }
  });
  input.addEventListener("input", (event) => {
    event.stopPropagation();
    // A suggestion was chosen. What is only typed is not taken when the field is left: the buttons below would move away
    // from under the pointer that has just left it for them.
    if (event.inputType === "insertReplacementText") return take();
    storeNames();
    suggest();
    touched();
  });

  let suggesting = null;
  function suggest() {
    clearTimeout(suggesting);
    suggesting = setTimeout(async () => {
      const { ok, data } = await ask(`${form.dataset.known}?${new URLSearchParams({ q: input.value.trim() })}`);
      if (!ok) return;
      byId("known-channels").replaceChildren(
        ...data.channels
          .filter((name) => !names.has(name))
          .map((name) => Object.assign(document.createElement("option"), { value: name })),
      );
    }, PREVIEW_MILLISECONDS);
  }

  // --- Preview and problems, by the server: it alone knows the exact bytes ---

  let asked = 0;
  let shown = 0;
  let waiting = null;
  let isChanged = form.dataset.unsaved === "yes";
  // Fields that somebody has been in, or that the server has complained about: of others nothing is said yet.
  const wasTyped = new Set(CHECKED.filter((name) => !byId(`${name}-problem`).hidden));
  const test = byId("test");

  function touched() {
    isChanged = true;
    byId("unsaved").textContent = text("unsaved");
    clearTimeout(waiting);
    waiting = setTimeout(preview, PREVIEW_MILLISECONDS);
  }

  async function preview() {
    const number = (asked += 1);
    const { ok, data } = await ask(form.dataset.preview, { method: "POST", body: new FormData(form) });
    if (number < shown) return; // a later one was quicker
    shown = number;
    if (!ok) return say("payload", data.errors);
    for (const name of CHECKED) {
      say(name, wasTyped.has(name) ? data.problems[name] ?? [] : []);
    }
    mistake = data.mistake;
    byId("to-mistake").hidden = !mistake?.line || !wasTyped.has("payload");
    hasPreview = Boolean(data.preview);
    if (test) test.disabled = isTesting || !hasPreview;
    const has = Boolean(data.preview);
    byId("preview-none").hidden = has;
    byId("preview-some").hidden = !has;
    if (!has) return;
    show(byId("wire"), data.preview.wire);
    show(byId("event-data"), data.preview.data);
    byId("wire-bytes").textContent = data.preview.bytes;
    const type = typedType();
    byId("typed").hidden = type === "message";
    byId("typed-badly").hidden = type !== "error" && type !== "open";
  }

  function say(name, problems) {
    const place = byId(`${name}-problem`);
    place.textContent = problems.join(" ");
    place.hidden = !problems.length;
    const field = name === "channels" ? input : form.elements[name];
    field.setAttribute?.("aria-invalid", String(problems.length > 0));
  }

  let mistake = null;
  byId("to-mistake").addEventListener("click", () => {
    const lines = payload.value.split("\n");
    const before = lines.slice(0, mistake.line - 1).reduce((sum, line) => sum + line.length + 1, 0);
    // Columns count characters, and a textarea counts UTF-16 units.
    const offset = before + [...lines[mistake.line - 1]].slice(0, mistake.column - 1).join("").length;
    payload.focus();
    payload.setSelectionRange(offset, Math.min(offset + 1, payload.value.length));
  });

  form.addEventListener("input", (event) => {
    wasTyped.add(event.target.name);
    touched();
  });
  input.addEventListener("blur", () => {
    wasTyped.add("channels");
    preview();
  });
  // A title is asked for when the draft is saved; then what was said of it is over as soon as there is one.
  form.elements.title.addEventListener("input", () => say("title", []));
  form.addEventListener("change", (event) => wasTyped.add(event.target.name));

  // --- Who listens, and warnings ---

  let counted = "";
  let warned = "";
  async function count() {
    const place = byId("audience");
    const wanted = stored.value.split(" ").filter(Boolean);
    if (!wanted.length) return warn([]), tell(place, [text("no-channels")]);
    const { ok, data } = await ask(`${form.dataset.audience}?${new URLSearchParams(wanted.map((name) => ["channel", name]))}`);
    if (!ok) return tell(place, data.errors);
    tell(place, data.words);
    warn(data.warnings);
  }

  // There is no warning about a name that is still being typed.
  function warn(warnings) {
    const due = warnings.filter(({ channel }) => names.has(channel) || document.activeElement !== input);
    if (JSON.stringify(due) === warned) return;
    warned = JSON.stringify(due);
    byId("warnings").replaceChildren(
      ...due.map((warning) => {
        const paragraph = document.createElement("p");
        paragraph.className = "notice warning";
        show(paragraph, warning.text);
        if (warning.nearest) paragraph.append(" ", replacing(warning.channel, warning.nearest));
        return paragraph;
      }),
    );
  }

  function replacing(name, nearest) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "plain";
    button.textContent = text("use-name", { name: nearest });
    button.addEventListener("click", () => {
      take();
      names.delete(name);
      names.add(nearest);
      said.textContent = text("added", { name: nearest });
      changed();
      count();
      input.focus();
    });
    return button;
  }

  // Written only if something has changed, or a screen reader would read it out every three seconds.
  function tell(place, lines) {
    if (lines.join("\n") === counted) return;
    counted = lines.join("\n");
    place.replaceChildren(
      ...lines.map((line) => {
        const paragraph = document.createElement("p");
        show(paragraph, line);
        return paragraph;
      }),
    );
  }

  // --- A test to oneself ---

  const channel = form.dataset.own;
  const types = new Set();
  let source = null;
  let hasPreview = false;
  let isTesting = false;
  let sentAt = 0;
  let awaited = null; // the id that the server has given the test
  let early = new Map(); // what came before the server had said which id to wait for

  function listenFor(type) {
    if (!source || types.has(type)) return;
    types.add(type);
    source.addEventListener(type, arrive);
  }

  // Resolves once the stream stands, so that the test cannot be over before it does.
  function open() {
    return new Promise((resolve, reject) => {
      byId("test-state").textContent = text("test-opening", { channel });
      source = new EventSource(`${form.dataset.stream}?${new URLSearchParams({ channel })}`);
      source.addEventListener("stream-checkpoint", resolve, { once: true });
      source.addEventListener("error", (event) => {
        if (event instanceof MessageEvent) return; // an event that is called "error"
        if (source.readyState === EventSource.CLOSED) {
          source = null;
          types.clear();
          reject(new Error(text("test-refused", { channel })));
        } else byId("test-state").textContent = text("test-lost");
      });
    });
  }

  function arrive(event) {
    if (!(event instanceof MessageEvent)) return;
    if (awaited === null) early.set(event.lastEventId, event);
    if (event.lastEventId !== awaited) return;
    const ms = Math.round(event.timeStamp - sentAt);
    byId("test-state").textContent = text("test-arrived", { id: event.lastEventId, type: event.type, ms });
    show(byId("test-data"), event.data);
    byId("test-data").hidden = false;
  }

  test?.addEventListener("click", async () => {
    isTesting = test.disabled = true;
    byId("test-data").hidden = true;
    try {
      if (!source) await open();
      listenFor(typedType());
      byId("test-state").textContent = text("test-sending");
      sentAt = performance.now();
      awaited = null;
      early = new Map();
      const { ok, data } = await ask(form.dataset.test, { method: "POST", body: new FormData(form) });
      if (!ok) throw new Error(data.errors.join(" "));
      awaited = String(data.position);
      byId("test-state").textContent = text("test-sent", { channel, id: awaited });
      if (early.has(awaited)) arrive(early.get(awaited)); // it was quicker than the answer
    } catch (error) {
      byId("test-state").textContent = error.message;
    } finally {
      isTesting = false;
      test.disabled = !hasPreview;
    }
  });

  window.addEventListener("pagehide", () => {
    source?.close();
    source = null;
    types.clear();
  });

  // --- Leaving ---

  let isSubmitting = false;
  form.addEventListener("submit", (event) => {
    storeNames();
    if (isSubmitting) return event.preventDefault(); // a double click
    isSubmitting = true;
    setTimeout(() => (isSubmitting = false), SUBMIT_MILLISECONDS); // should the server not answer
  });
  window.addEventListener("pageshow", () => {
    isSubmitting = false; // back from the next page
  });
  window.addEventListener("beforeunload", (event) => {
    if (isChanged && !isSubmitting) event.preventDefault();
  });

  drawChips();
  storeNames();
  preview();
  if (isChanged) {
    byId("unsaved").textContent = text("unsaved");
    const wrong = ["title", ...CHECKED].find((name) => !byId(`${name}-problem`).hidden);
    if (wrong) (wrong === "channels" ? input : byId(`id_${wrong}`))?.focus();
  }
  every(COUNT_MILLISECONDS, count);
  form.addEventListener("change", count);
  chips.addEventListener("click", () => setTimeout(count));
})();
