// The test of a broadcast: publishes the message to the user's own channel, and waits for it on a real EventSource.
"use strict";

// `eventType()` returns the event type in the form. Returns setReady(), which enables or disables the button.
const createTestMessage = (form, eventType) => {
  const { text } = Streams;
  const byId = (id) => document.getElementById(id);
  const button = byId("test");
  const channel = form.dataset.own;
  const types = new Set();
  let source = null;
  let isReady = false;
  let isRunning = false;
  let sentAt = 0;
  let expectedId = null;
  let early = new Map(); // events that arrived before the response with the expected id

  function showState(words) {
    byId("test-state").textContent = words;
  }

  function setReady(ready) {
    isReady = ready;
    if (button) button.disabled = isRunning || !isReady;
  }

  // Resolves when the stream is open, so that the test message cannot be missed.
  function open() {
    return new Promise((resolve, reject) => {
      showState(text("test-opening", { channel }));
      source = new EventSource(`${form.dataset.stream}?${new URLSearchParams({ channel })}`);
      source.addEventListener("stream-checkpoint", resolve, { once: true });
      source.addEventListener("error", (event) => {
        if (event instanceof MessageEvent) return; // a message whose event type is "error"
        if (source.readyState === EventSource.CLOSED) {
          close();
          reject(new Error(text("test-refused", { channel })));
        } else showState(text("test-lost"));
      });
    });
  }

  function close() {
    source?.close();
    source = null;
    types.clear();
  }

  function listenFor(type) {
    if (!source || types.has(type)) return;
    types.add(type);
    source.addEventListener(type, receive);
  }

  function receive(event) {
    if (!(event instanceof MessageEvent)) return;
    if (expectedId === null) early.set(event.lastEventId, event);
    if (event.lastEventId !== expectedId) return;
    const ms = Math.round(event.timeStamp - sentAt);
    showState(text("test-received", { id: event.lastEventId, type: event.type, ms }));
    Streams.show(byId("test-data"), event.data);
    byId("test-data").hidden = false;
  }

  async function run() {
    isRunning = button.disabled = true;
    byId("test-data").hidden = true;
    try {
      if (!source) await open();
      listenFor(eventType());
      showState(text("test-sending"));
      sentAt = performance.now();
      expectedId = null;
      early = new Map();
      const { ok, data } = await Streams.fetchJSON(form.dataset.test, { method: "POST", body: new FormData(form) });
      if (!ok) throw new Error(data.errors.join(" "));
      expectedId = String(data.position);
      showState(text("test-sent", { channel, id: expectedId }));
      if (early.has(expectedId)) receive(early.get(expectedId));
    } catch (error) {
      showState(error.message);
    } finally {
      isRunning = false;
      setReady(isReady);
    }
  }

  button?.addEventListener("click", run);
  window.addEventListener("pagehide", close);
  return setReady;
};
