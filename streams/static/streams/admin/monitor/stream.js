// The connection of the live monitor. An EventSource delivers only the event types that the page listens for, so this
// script also asks the server for new types, and reopens the stream when there are any.
"use strict";

const MonitorStream = (() => {
  const MAX_SEEN = 20_000; // ids; a reopened stream repeats far fewer events
  const RETRY_SECONDS = 5;

  const byId = (id) => document.getElementById(id);
  const watch = JSON.parse(byId("watch").textContent);

  let source = null;
  let retryTimer = null;
  let cursor = watch.replay ? null : watch.after; // the last event id of this connection
  let resets = 0;
  let hasLeft = false; // the user has left the page, but might come back to it
  const types = new Set(watch.types);
  const seen = new Set(); // the latest ids, in the order of their arrival
  let onMessage = () => {};

  const isOpen = () => source?.readyState === EventSource.OPEN;

  function showState(state, details = "") {
    byId("state").dataset.state = state;
    Streams.setText(byId("state"), Streams.text(state));
    Streams.show(byId("state-more"), details);
  }

  // A stream starts with a checkpoint or a reset. After a replay, a second checkpoint marks the start of live events.
  let marks = 0;
  let marksUntilLive = 1;
  let hasBeenLive = false;

  function receiveMark(event) {
    marks += 1;
    hasBeenLive ||= marks >= marksUntilLive;
    moveCursor(event);
  }

  function moveCursor(event) {
    if (!event.lastEventId) return;
    cursor = Number(event.lastEventId);
    byId("position").textContent = Streams.text("position", { id: event.lastEventId });
  }

  function receive(event) {
    // Ignore the "error" and "open" events of EventSource itself, because event types can have the same names.
    if (event.target !== source || !(event instanceof MessageEvent)) return;
    moveCursor(event);
    const id = Number(event.lastEventId);
    if (seen.has(id)) return;
    seen.add(id);
    if (seen.size > MAX_SEEN) seen.delete(seen.values().next().value);
    const channel = watch.channels.length === 1 ? watch.channels[0] : null;
    EventList.add({ kind: "message", id, type: event.type, data: event.data, channel, at: new Date() });
    onMessage(hasBeenLive);
  }

  function addNotice(type, text, values = {}, data = undefined) {
    EventList.add({ kind: "notice", type, title: Streams.text(type, values), text, data });
  }

  function receiveReset(event) {
    receiveMark(event);
    const reset = JSON.parse(event.data);
    const key = ["pruned", "unknown-id", "malformed-id"].includes(reset.reason) ? reset.reason : "other-reason";
    addNotice(event.type, Streams.text(key, { ...reset, earliest: reset.earliest ?? Streams.text("none") }));
    if (reset.reason === "pruned") return;
    // This is another log with other ids and types.
    resets += 1;
    seen.clear();
    typesThrough = cursor;
    checkTypes();
  }

  function receiveError(event) {
    addNotice(event.type, Streams.text("stream-error-more", { id: cursor ?? 0 }), {}, event.data);
  }

  function receiveSnapshot(event) {
    moveCursor(event);
    addNotice(event.type, "", { id: event.lastEventId }, event.data);
  }

  function connect() {
    clearTimeout(retryTimer);
    source?.close();
    const url = new URL(watch.stream, location.href);
    if (cursor === null) url.searchParams.set("replay", watch.replay);
    else url.searchParams.set("last_event_id", cursor);
    const opened = new EventSource(url);
    source = opened;
    opened.onopen = (event) => {
      if (event instanceof MessageEvent) return;
      marks = 0;
      marksUntilLive = cursor === null && !Number(watch.replay) ? 1 : 2;
      if (byId("state").dataset.state !== "live") showState("live");
    };
    opened.onerror = (event) => {
      if (event instanceof MessageEvent || opened !== source) return;
      if (opened.readyState !== EventSource.CLOSED) {
        showState("reconnecting", Streams.text("lost"));
        return;
      }
      // The response was not a stream. Browsers then give up, and do not report the reason.
      showState("closed", Streams.text("refused", { seconds: RETRY_SECONDS }));
      retryTimer = setTimeout(connect, RETRY_SECONDS * 1000);
    };
    for (const type of types) opened.addEventListener(type, receive);
    opened.addEventListener("stream-checkpoint", receiveMark);
    opened.addEventListener("stream-reset", receiveReset);
    opened.addEventListener("stream-snapshot", receiveSnapshot);
    opened.addEventListener("stream-error", receiveError);
  }

  // --- New event types ---

  let typesThrough = watch.after; // the types of all messages up to this id are known
  let isChecking = false;
  let hasFailed = false;
  let retryTypesAt = 0;

  // Ask for the types of all messages after typesThrough. Resolves to the new types, the first id that has one of them,
  // and the id after which the list of events starts.
  async function findTypes() {
    const fresh = [];
    let first = Infinity;
    let floor = Infinity;
    for (;;) {
      const resetsBefore = resets;
      const { ok, data } = await Streams.fetchJSON(`${watch.types_url}&after=${typesThrough}`);
      if (resetsBefore !== resets) {
        // The response is about the previous log.
        first = typesThrough + 1;
        floor = Infinity;
        continue;
      }
      if (hasFailed || !ok) {
        const problem = ok ? "" : Streams.text("types-failed", { problem: data.errors.join(" ") });
        Streams.setText(byId("state-more"), problem);
        hasFailed = !ok;
      }
      if (!ok) {
        retryTypesAt = Date.now() + RETRY_SECONDS * 1000;
        return { fresh, first, floor };
      }
      floor = Math.min(floor, data.floor);
      for (const [type, id] of Object.entries(data.types)) {
        if (types.has(type)) continue;
        types.add(type);
        fresh.push(type);
        first = Math.min(first, id);
      }
      const hasMore = data.through > typesThrough && data.through < data.head;
      typesThrough = data.through;
      if (!hasMore) return { fresh, first, floor };
    }
  }

  async function checkTypes() {
    if (isChecking || Date.now() < retryTypesAt) return;
    isChecking = true;
    try {
      const { fresh, first, floor } = await findTypes();
      if (!fresh.length) return;
      const names = fresh.join(", ");
      // Go back to just before the first event of a new type, even if the user has left the page. `seen` removes the
      // duplicates. Do not go back further than the list needs, which could be most of the log.
      if (cursor !== null && first <= cursor) {
        const back = Math.min(cursor, Math.max(first - 1, floor));
        if (back >= first) addNotice("older", Streams.text("older-more", { types: names, first, through: back }));
        cursor = back;
      }
      if (hasLeft) return;
      connect();
      Streams.show(byId("state-more"), Streams.text("new-type", { types: names }));
    } finally {
      isChecking = false;
    }
  }

  addEventListener("pagehide", () => {
    hasLeft = true;
    clearTimeout(retryTimer);
    source?.close();
  });
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    hasLeft = false;
    connect(); // the page was restored from the browser's cache, so continue after the last event
  });

  // Open the stream. `callback(isLive)` is called for each message; `isLive` is false during the first replay.
  function start(callback) {
    onMessage = callback;
    connect(); // before checkTypes(), which can take long if the stream starts at an old event
    checkTypes();
  }

  return { start, checkTypes, isOpen };
})();
