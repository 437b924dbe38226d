// The form of a broadcast: a preview and checks by the server, the current audience, and warnings about the channels.
// Without this script, the form can still be saved and sent.
"use strict";

(() => {
  const { text, show, fetchJSON, poll } = Streams;
  const byId = (id) => document.getElementById(id);
  const form = byId("compose");
  const payload = form.elements.payload;
  const PREVIEW_MILLISECONDS = 250;
  const AUDIENCE_MILLISECONDS = 3000;
  const SUBMIT_MILLISECONDS = 5000;
  const CHECKED_FIELDS = ["channels", "event", "payload_type", "payload"];

  let isChanged = form.dataset.unsaved === "yes";
  // Show errors only for fields that the user has edited, or that had an error when the page was loaded.
  const edited = new Set(CHECKED_FIELDS.filter((name) => !byId(`${name}-problem`).hidden));

  // Trim as the server does. The keyboards of phones add a space after a word.
  const eventType = () => form.elements.event.value.trim();
  const setTestReady = createTestMessage(form, eventType);
  const channels = createChannelInput(form, changed, () => {
    edited.add("channels");
    updateAudience();
  });

  let previewTimer = null;
  function changed() {
    isChanged = true;
    byId("unsaved").textContent = text("unsaved");
    clearTimeout(previewTimer);
    previewTimer = setTimeout(updatePreview, PREVIEW_MILLISECONDS);
  }

  // --- Preview and errors, from the server, because only the server knows the exact bytes ---

  let requested = 0;
  let answered = 0;
  let jsonError = null;
  async function updatePreview() {
    const number = (requested += 1);
    const { ok, data } = await fetchJSON(form.dataset.preview, { method: "POST", body: new FormData(form) });
    if (number < answered) return; // a later request was faster
    answered = number;
    if (!ok) return showErrors("payload", data.errors);
    for (const name of CHECKED_FIELDS) {
      showErrors(name, edited.has(name) ? data.errors_by_field[name] ?? [] : []);
    }
    jsonError = data.json_error;
    byId("to-error").hidden = !jsonError?.line || !edited.has("payload");
    setTestReady(Boolean(data.preview));
    byId("preview-none").hidden = Boolean(data.preview);
    byId("preview-some").hidden = !data.preview;
    if (!data.preview) return;
    show(byId("encoded"), data.preview.encoded);
    show(byId("event-data"), data.preview.data);
    byId("encoded-bytes").textContent = data.preview.bytes;
    const type = eventType();
    byId("typed").hidden = type === "message";
    byId("typed-badly").hidden = type !== "error" && type !== "open";
  }

  function showErrors(name, errors) {
    const element = byId(`${name}-problem`);
    element.textContent = errors.join(" ");
    element.hidden = !errors.length;
    const field = name === "channels" ? channels.input : form.elements[name];
    field.setAttribute?.("aria-invalid", String(errors.length > 0));
  }

  byId("to-error").addEventListener("click", () => {
    const lines = payload.value.split("\n");
    const before = lines.slice(0, jsonError.line - 1).reduce((sum, line) => sum + line.length + 1, 0);
    // The server's column counts characters, but a textarea counts UTF-16 units.
    const offset = before + [...lines[jsonError.line - 1]].slice(0, jsonError.column - 1).join("").length;
    payload.focus();
    payload.setSelectionRange(offset, Math.min(offset + 1, payload.value.length));
  });

  form.addEventListener("input", (event) => {
    edited.add(event.target.name);
    changed();
  });
  form.addEventListener("change", (event) => edited.add(event.target.name));
  channels.input.addEventListener("blur", () => {
    edited.add("channels");
    updatePreview();
  });
  // A missing title is an error only when the draft is saved, so remove the error when the user enters one.
  form.elements.title.addEventListener("input", () => showErrors("title", []));

  // --- Audience and warnings ---

  let shownLines = "";
  let shownWarnings = "";
  async function updateAudience() {
    const wanted = channels.names();
    if (!wanted.length) return showWarnings([]), showLines([text("no-channels")]);
    const query = new URLSearchParams(wanted.map((name) => ["channel", name]));
    const { ok, data } = await fetchJSON(`${form.dataset.audience}?${query}`);
    if (!ok) return showLines(data.errors);
    showLines(data.sentences);
    showWarnings(data.warnings);
  }

  function showWarnings(warnings) {
    const due = warnings.filter(({ channel }) => channels.isComplete(channel));
    if (JSON.stringify(due) === shownWarnings) return;
    shownWarnings = JSON.stringify(due);
    byId("warnings").replaceChildren(
      ...due.map((warning) => {
        const paragraph = createParagraph(warning.text);
        paragraph.className = "notice warning";
        if (warning.suggestion) paragraph.append(" ", createReplaceButton(warning.channel, warning.suggestion));
        return paragraph;
      }),
    );
  }

  function createReplaceButton(name, suggestion) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "plain";
    button.textContent = text("use-name", { name: suggestion });
    button.addEventListener("click", () => channels.replace(name, suggestion));
    return button;
  }

  // Write only changes, or a screen reader would read the lines every three seconds.
  function showLines(lines) {
    if (lines.join("\n") === shownLines) return;
    shownLines = lines.join("\n");
    byId("audience").replaceChildren(...lines.map(createParagraph));
  }

  function createParagraph(line) {
    const paragraph = document.createElement("p");
    show(paragraph, line);
    return paragraph;
  }

  // --- Leaving the page ---

  let isSubmitting = false;
  form.addEventListener("submit", (event) => {
    channels.store();
    if (isSubmitting) return event.preventDefault(); // a double click
    isSubmitting = true;
    setTimeout(() => (isSubmitting = false), SUBMIT_MILLISECONDS); // in case the server does not respond
  });
  window.addEventListener("pageshow", () => {
    isSubmitting = false; // the user came back from the next page
  });
  window.addEventListener("beforeunload", (event) => {
    if (isChanged && !isSubmitting) event.preventDefault();
  });

  updatePreview();
  if (isChanged) {
    byId("unsaved").textContent = text("unsaved");
    const wrong = ["title", ...CHECKED_FIELDS].find((name) => !byId(`${name}-problem`).hidden);
    if (wrong) (wrong === "channels" ? channels.input : byId(`id_${wrong}`))?.focus();
  }
  poll(AUDIENCE_MILLISECONDS, updateAudience);
  form.addEventListener("change", updateAudience);
  channels.chips.addEventListener("click", () => setTimeout(updateAudience));
})();
