// The live monitor: shows the events of some channels as they come. An EventSource hands out only those types of events
// that it was asked for, and does not say which channel an event is of: both are asked of the server beside it.
"use strict";

{
  const MOST_ROWS = 200;
  const MOST_WAITING = 1000;
  const MOST_WAITING_CHARACTERS = 8_000_000; // of data
  const MOST_SEEN = 20_000; // ids: many more than a stream that was opened again may bring once more
  const LONGEST = 2000; // characters of data
  const SECONDS = 60; // of the chart
  const TRY_AGAIN_SECONDS = 5;
  const ANNOUNCE_MILLISECONDS = 3000;

  const byId = (id) => document.getElementById(id);
  const watch = JSON.parse(byId("watch").textContent);
  const list = byId("events");
  const clock = new Intl.DateTimeFormat(document.documentElement.lang || undefined, {
    year: "numeric",
    month: "2-digit",
    day: "2-digit",
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    timeZoneName: "short", // the browser's, while the site's own pages are in the site's
  });

  // --- The rows: records are kept newest first, and each has its element once it is drawn ---

  let records = [];
  let pending = []; // what came and is not drawn yet
  let paused = false;
  let pendingCharacters = 0;
  let dropped = 0;
  let received = 0;
  let drawing = null;

  const wanted = () => byId("filter").value.toLowerCase();

  function matches(record, text) {
    if (!text || record.kind === "notice") return true;
    return [record.channel ?? "", record.type, record.data].some((part) => part.toLowerCase().includes(text));
  }

  const isTooMuch = () => pending.length > MOST_WAITING || pendingCharacters > MOST_WAITING_CHARACTERS;

  function add(record) {
    pending.push(record);
    pendingCharacters += record.data?.length ?? 0;
    if (isTooMuch() && !paused) draw();
    while (isTooMuch() && pending.length > 1) {
      pendingCharacters -= pending.shift().data?.length ?? 0;
      dropped += 1;
    }
    drawing ??= setTimeout(draw, 100);
  }

  // By id, for an event of a type that was unknown comes late. Never past a notice of a gap: below may be another log.
  function place(record) {
    let index = 0;
    for (const [below, other] of records.entries()) {
      if (record.kind !== "message" || (other.kind === "message" ? other.id <= record.id : other.type !== "older")) break;
      if (other.kind === "message") index = below + 1;
    }
    records.splice(index, 0, record);
  }

  // What the filter hides goes first.
  function trim(text) {
    while (records.length > MOST_ROWS) {
      let index = text ? records.findLastIndex((record) => !matches(record, text)) : -1;
      if (index < 0) index = records.length - 1;
      records.splice(index, 1)[0].element?.remove();
    }
  }

  function draw() {
    clearTimeout(drawing);
    drawing = null;
    const text = wanted();
    if (!paused) {
      announce(pending);
      for (const record of pending) {
        place(record);
        trim(text);
      }
      pending = [];
      pendingCharacters = dropped = 0;
    }
    let shown = 0;
    records.forEach((record, index) => {
      record.element ??= record.kind === "message" ? rowOf(record) : noticeOf(record);
      if (list.children[index] !== record.element) list.insertBefore(record.element, list.children[index] ?? null);
      record.element.hidden = !matches(record, text);
      if (!record.element.hidden) shown += 1;
    });
    byId("none").hidden = records.length > 0;
    byId("none-match").hidden = shown > 0 || records.length === 0;
    tell("waiting", paused ? Streams.text(dropped ? "waiting-dropped" : "waiting", { n: pending.length, dropped }) : "");
    tell("count", Streams.text(text ? "count-filtered" : "count", { n: received, shown, kept: records.length }));
  }

  // Only what changes is written: a live region speaks at each write.
  function tell(id, words) {
    if (byId(id).textContent !== words) byId(id).textContent = words;
  }

  function rowOf(record) {
    const row = byId("event").content.firstElementChild.cloneNode(true);
    row.classList.add("fresh");
    row.querySelector(".id").textContent = Streams.text("event", { id: record.id });
    Streams.show(row.querySelector(".type"), record.type);
    record.element = row;
    describe(record);
    fillData(row, record.data);
    return row;
  }

  function describe(record) {
    const row = record.element;
    const time = row.querySelector("time");
    time.dateTime = record.at.toISOString();
    time.textContent = clock.format(record.at);
    const channel = row.querySelector(".channel");
    if (record.channel) Streams.show(channel, record.channel);
    else channel.textContent = Streams.text(record.known ? "no-channel" : "finding-channel");
    if (record.by) Streams.show(row.querySelector(".publisher"), Streams.text("publisher", { name: record.by }));
    if (record.pk) row.querySelector(".id").href = watch.message_url.replace(/\/0\/(?=[^/]*\/$)/, `/${record.pk}/`);
  }

  function fillData(row, data) {
    const place = row.querySelector(".data");
    const text = Streams.pretty(data);
    // What may scroll is reached by the keyboard; of two hundred rows, not each.
    const lines = text.split("\n").reduce((sum, line) => sum + 1 + Math.floor(line.length / 40), 0);
    if (lines > 15) place.tabIndex = 0;
    if (text.length <= LONGEST) {
      Streams.show(place, text || Streams.text("empty-data"));
      return;
    }
    const start = Streams.shorten(text, LONGEST);
    Streams.show(place, `${start} …`);
    const more = row.querySelector(".more");
    more.hidden = false;
    more.querySelector("span").textContent = Streams.text("cut", { n: (text.length - start.length).toLocaleString() });
    const button = more.querySelector("button");
    button.textContent = Streams.text("show-all", { n: text.length.toLocaleString() });
    button.addEventListener("click", () => {
      Streams.show(place, text);
      more.hidden = true;
      place.focus();
    });
  }

  function noticeOf(record) {
    const row = byId("notice").content.firstElementChild.cloneNode(true);
    row.dataset.kind = record.type;
    row.querySelector("strong").textContent = record.title;
    Streams.show(row.querySelector("span"), record.words);
    if (record.data !== undefined) {
      row.querySelector(".data").hidden = false;
      Streams.show(row.querySelector(".data"), Streams.shorten(Streams.pretty(record.data), LONGEST));
    }
    return row;
  }

  // A burst would keep a screen reader busy for minutes.
  let unannounced = { n: 0 };
  let announcing = null;
  function announce(added) {
    const events = added.filter((record) => record.kind === "message");
    if (!events.length) return;
    const { id, type } = events.at(-1);
    unannounced = { n: unannounced.n + events.length, id, type };
    announcing ??= setTimeout(() => {
      const words = Streams.text(unannounced.n === 1 ? "announce-one" : "announce", unannounced);
      Streams.show(byId("announcement"), words);
      unannounced = { n: 0 };
      announcing = null;
    }, ANNOUNCE_MILLISECONDS);
  }

  // --- Channel, time and publisher, which the stream does not say ---

  let askAfter = 0;
  async function complete() {
    const open = records.filter((record) => record.kind === "message" && !record.known).slice(0, MOST_ROWS);
    if (!open.length || Date.now() < askAfter || source?.readyState !== EventSource.OPEN) return;
    const { ok, data } = await Streams.ask(`${watch.events_url}?ids=${open.map((record) => record.id).join(",")}`);
    if (!ok) {
      askAfter = Date.now() + TRY_AGAIN_SECONDS * 1000;
      return;
    }
    for (const record of open) {
      const found = data.events[record.id];
      record.known = true;
      if (found) Object.assign(record, { channel: found.channel, at: new Date(found.at), by: found.by, pk: found.pk });
      describe(record);
    }
    draw();
  }

  // --- The stream ---

  let source = null;
  let again = null;
  let reached = watch.replay ? null : watch.after; // the id that this connection stands at
  let typesThrough = watch.after; // for messages above it, it is not known yet of what types they are
  let resets = 0;
  let asking = false; // for types
  let failing = false;
  let askTypesAfter = 0;
  let away = false; // the page has been left, and may come back
  const types = new Set(watch.types);
  const seen = new Set(); // the ids that came last, in the order in which they came

  function show(state, more = "") {
    byId("state").dataset.state = state;
    tell("state", Streams.text(state));
    Streams.show(byId("state-more"), more);
  }

  // A stream says where it begins, by a checkpoint or a reset, and after a replay by a checkpoint that it is live.
  let marks = 0;
  let marksUntilLive = 1;
  let hasBeenLive = false;

  function mark(event) {
    marks += 1;
    hasBeenLive ||= marks >= marksUntilLive;
    stand(event);
  }

  function stand(event) {
    if (!event.lastEventId) return;
    reached = Number(event.lastEventId);
    byId("stands").textContent = Streams.text("stands", { id: event.lastEventId });
  }

  const arrivals = new Map(); // {second: messages}, of the chart's seconds
  function count() {
    const now = Math.floor(Date.now() / 1000);
    arrivals.set(now, (arrivals.get(now) ?? 0) + 1);
    if (arrivals.size > SECONDS + 1) forgetArrivals(now);
  }

  function forgetArrivals(now) {
    for (const second of arrivals.keys()) if (second < now - SECONDS) arrivals.delete(second);
  }

  function receive(event) {
    if (event.target !== source || !(event instanceof MessageEvent)) return; // a type may be named "error" or "open"
    stand(event);
    const id = Number(event.lastEventId);
    if (seen.has(id)) return;
    seen.add(id);
    if (seen.size > MOST_SEEN) seen.delete(seen.values().next().value);
    received += 1;
    if (hasBeenLive) count(); // what the page began with was published before
    const channel = watch.channels.length === 1 ? watch.channels[0] : null;
    add({ kind: "message", id, type: event.type, data: event.data, channel, at: new Date() });
  }

  function reset(event) {
    mark(event);
    const told = JSON.parse(event.data);
    const key = ["pruned", "unknown-id", "malformed-id"].includes(told.reason) ? told.reason : "other-reason";
    const words = Streams.text(key, { ...told, earliest: told.earliest ?? Streams.text("none") });
    add({ kind: "notice", type: event.type, title: Streams.text(event.type), words });
    if (told.reason === "pruned") return;
    // Another log: its ids begin anew, and so does what is known of them.
    resets += 1;
    seen.clear();
    typesThrough = reached;
    askTypes();
  }

  function fail(event) {
    const words = Streams.text("stream-error-more", { id: reached ?? 0 });
    add({ kind: "notice", type: event.type, title: Streams.text(event.type), words });
  }

  function snapshot(event) {
    stand(event);
    const title = Streams.text(event.type, { id: event.lastEventId });
    add({ kind: "notice", type: event.type, title, words: "", data: event.data });
  }

  function connect() {
    clearTimeout(again);
    source?.close();
    const url = new URL(watch.stream, location.href);
    if (reached === null) url.searchParams.set("replay", watch.replay);
    else url.searchParams.set("last_event_id", reached);
    const opened = new EventSource(url);
    source = opened;
    opened.onopen = (event) => {
      if (event instanceof MessageEvent) return;
      marks = 0;
      marksUntilLive = reached === null && !Number(watch.replay) ? 1 : 2;
      if (byId("state").dataset.state !== "live") show("live");
    };
    opened.onerror = (event) => {
      if (event instanceof MessageEvent || opened !== source) return;
      if (opened.readyState !== EventSource.CLOSED) {
        show("reconnecting", Streams.text("lost"));
        return;
      }
      // Any answer but a stream: a browser then gives up for good, and says no more than that.
      show("closed", Streams.text("refused", { seconds: TRY_AGAIN_SECONDS }));
      again = setTimeout(connect, TRY_AGAIN_SECONDS * 1000);
    };
    for (const type of types) opened.addEventListener(type, receive);
    opened.addEventListener("stream-checkpoint", mark);
    opened.addEventListener("stream-reset", reset);
    opened.addEventListener("stream-snapshot", snapshot);
    opened.addEventListener("stream-error", fail);
  }

  // --- Types that nobody has asked for yet ---

  // All types of the messages above typesThrough that are new here, the first id that one of them has, and the id from
  // which on the rows are filled.
  async function findTypes() {
    const fresh = [];
    let first = Infinity;
    let floor = Infinity;
    for (;;) {
      const before = resets;
      const { ok, data } = await Streams.ask(`${watch.types_url}&after=${typesThrough}`);
      if (before !== resets) {
        first = typesThrough + 1; // of another log
        floor = Infinity;
        continue;
      }
      if (failing || !ok) {
        const words = ok ? "" : Streams.text("types-failed", { problem: data.errors.join(" ") });
        tell("state-more", words);
        failing = !ok;
      }
      if (!ok) {
        askTypesAfter = Date.now() + TRY_AGAIN_SECONDS * 1000;
        return { fresh, first, floor };
      }
      floor = Math.min(floor, data.floor);
      for (const [type, id] of Object.entries(data.types)) {
        if (types.has(type)) continue;
        types.add(type);
        fresh.push(type);
        first = Math.min(first, id);
      }
      const more = data.through > typesThrough && data.through < data.head;
      typesThrough = data.through;
      if (!more) return { fresh, first, floor };
    }
  }

  async function askTypes() {
    if (asking || Date.now() < askTypesAfter) return;
    asking = true;
    try {
      const { fresh, first, floor } = await findTypes();
      if (!fresh.length) return;
      const names = fresh.join(", ");
      // Back to just before its first, also for a page that has been left and comes back: what comes twice by that is
      // dropped, by `seen`. Not farther than what the rows need: that may be most of a log.
      if (reached !== null && first <= reached) {
        const back = Math.min(reached, Math.max(first - 1, floor));
        if (back >= first) noteOlder(names, first, back);
        reached = back;
      }
      if (away) return;
      connect();
      Streams.show(byId("state-more"), Streams.text("new-type", { types: names }));
    } finally {
      asking = false;
    }
  }

  function noteOlder(names, first, through) {
    const words = Streams.text("older-more", { types: names, first, through });
    add({ kind: "notice", type: "older", title: Streams.text("older"), words });
  }

  // --- The page ---

  function drawRate() {
    const now = Math.floor(Date.now() / 1000);
    forgetArrivals(now);
    const values = Array.from({ length: SECONDS }, (_, index) => arrivals.get(now - SECONDS + index) ?? 0);
    Streams.bars(byId("rate"), values, SECONDS);
    const sum = values.reduce((total, value) => total + value, 0);
    byId("rate-text").textContent = Streams.text("rate", { now: values.at(-1), most: Math.max(...values), sum });
  }

  byId("pause").addEventListener("click", () => {
    paused = !paused;
    byId("pause").textContent = Streams.text(paused ? "resume" : "pause");
    draw();
  });

  byId("clear").addEventListener("click", () => {
    records = [];
    pending = [];
    pendingCharacters = dropped = received = 0;
    list.replaceChildren();
    draw();
  });

  byId("filter").addEventListener("input", draw);

  addEventListener("pagehide", () => {
    away = true;
    clearTimeout(again);
    source?.close();
  });
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    away = false;
    connect(); // back from the browser's cache: on from where it stood
  });

  function begin() {
    byId("monitor").hidden = false;
    draw();
    connect(); // first: to look for new types may take long, after an event of long ago
    askTypes();
    Streams.every(2000, async () => {
      if (source.readyState === EventSource.OPEN) await askTypes();
    });
    Streams.every(500, complete);
    Streams.every(1000, drawRate);
  }
  begin();
}
