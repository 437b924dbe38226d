// The live monitor: shows the events of some channels as they come. An EventSource hands out only those types of events
// that it was asked for, and does not say which channel an event is of: both are asked of the server beside it.
"use strict";

{
  const MOST_ROWS = 200;
  const MOST_WAITING = 1000;
  const MOST_SEEN = 20_000; // ids, after which new types are asked for even when nobody looks
  const LONGEST = 2000; // characters of data
  const SECONDS = 60; // of the chart
  const TRY_AGAIN_SECONDS = 5;
  const ANNOUNCE_MILLISECONDS = 3000;

  const byId = (id) => document.getElementById(id);
  const watch = JSON.parse(byId("watch").textContent);
  const list = byId("events");
  const clock = new Intl.DateTimeFormat(document.documentElement.lang || undefined, {
    dateStyle: "short",
    timeStyle: "medium",
  });

  // --- The rows: records are kept newest first, and each has its element once it is drawn ---

  let records = [];
  let pending = []; // what came and is not drawn yet
  let paused = false;
  let dropped = 0;
  let received = 0;
  let drawing = null;

  const wanted = () => byId("filter").value.toLowerCase();

  function matches(record, text) {
    if (!text || record.kind === "notice") return true;
    return [record.channel ?? "", record.type, record.data].some((part) => part.toLowerCase().includes(text));
  }

  function add(record) {
    if (pending.length >= MOST_WAITING) {
      if (paused) {
        pending.shift();
        dropped += 1;
      } else draw();
    }
    pending.push(record);
    drawing ??= setTimeout(draw, 100);
  }

  // By id, for an event of a type that was unknown comes late. Never past a notice: below a gap may be another log.
  function place(record) {
    let index = 0;
    if (record.kind === "message") {
      while (index < records.length && records[index].kind === "message" && records[index].id > record.id) index += 1;
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
      dropped = 0;
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
    if (text.length > 1000 || text.split("\n", 16).length > 15) place.tabIndex = 0; // it may scroll
    if (text.length <= LONGEST) {
      Streams.show(place, text || Streams.text("empty-data"));
      return;
    }
    const end = /[\ud800-\udbff]/.test(text[LONGEST - 1]) ? LONGEST - 1 : LONGEST;
    Streams.show(place, `${text.slice(0, end)} …`);
    const more = row.querySelector(".more");
    more.hidden = false;
    more.querySelector("span").textContent = Streams.text("cut", { n: (text.length - end).toLocaleString() });
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
      Streams.show(row.querySelector(".data"), Streams.pretty(record.data).slice(0, LONGEST));
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
  let asking = false;
  let failing = false; // to ask for types
  let away = false; // the page has been left, and may come back
  const types = new Set(watch.types);
  // The ids that were shown. What is at or below both `reached` and `typesThrough` can never come again.
  const seen = new Set();

  function forgetSeen() {
    const end = Math.min(reached ?? 0, typesThrough);
    for (const id of seen) if (id <= end) seen.delete(id);
  }

  function show(state, more = "") {
    byId("state").dataset.state = state;
    tell("state", Streams.text(state));
    Streams.show(byId("state-more"), more);
  }

  function stand(event) {
    if (!event.lastEventId) return;
    reached = Number(event.lastEventId);
    byId("stands").textContent = Streams.text("stands", { id: event.lastEventId });
  }

  const arrivals = new Map(); // {second: messages}
  function receive(event) {
    if (event.target !== source || !(event instanceof MessageEvent)) return; // a type may be named "error" or "open"
    stand(event);
    const id = Number(event.lastEventId);
    if (seen.has(id)) return;
    seen.add(id);
    received += 1;
    const second = Math.floor(Date.now() / 1000);
    arrivals.set(second, (arrivals.get(second) ?? 0) + 1);
    const channel = watch.channels.length === 1 ? watch.channels[0] : null;
    add({ kind: "message", id, type: event.type, data: event.data, channel, at: new Date() });
    if (seen.size > MOST_SEEN) askTypes();
  }

  function reset(event) {
    stand(event);
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
      if (!(event instanceof MessageEvent) && byId("state").dataset.state !== "live") show("live");
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
    opened.addEventListener("stream-checkpoint", stand);
    opened.addEventListener("stream-reset", reset);
    opened.addEventListener("stream-snapshot", snapshot);
    opened.addEventListener("stream-error", fail);
  }

  // --- Types that nobody has asked for yet ---

  // All types of the messages above typesThrough that are new here, and the first id that one of them has.
  async function findTypes() {
    const fresh = [];
    let first = Infinity;
    for (;;) {
      const before = resets;
      const { ok, data } = await Streams.ask(`${watch.types_url}&after=${typesThrough}`);
      if (before !== resets) continue;
      if (failing || !ok) {
        const words = ok ? "" : Streams.text("types-failed", { problem: data.errors.join(" ") });
        tell("state-more", words);
        failing = !ok;
      }
      if (!ok) return { fresh, first };
      for (const [type, id] of Object.entries(data.types)) {
        if (types.has(type)) continue;
        types.add(type);
        fresh.push(type);
        first = Math.min(first, id);
      }
      const more = data.through > typesThrough && data.through < data.head;
      typesThrough = data.through;
      if (!more) return { fresh, first };
    }
  }

  async function askTypes() {
    if (asking) return;
    asking = true;
    try {
      const { fresh, first } = await findTypes();
      if (fresh.length && source && !away) {
        // Back to just before its first: what comes twice by that is dropped, by `seen`.
        if (reached !== null) reached = Math.min(reached, first - 1);
        connect();
        Streams.show(byId("state-more"), Streams.text("new-type", { types: fresh.join(", ") }));
      }
      forgetSeen();
    } finally {
      asking = false;
    }
  }

  // --- The page ---

  function drawRate() {
    const now = Math.floor(Date.now() / 1000);
    for (const second of arrivals.keys()) if (second < now - SECONDS) arrivals.delete(second);
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
    dropped = received = 0;
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

  async function begin() {
    byId("monitor").hidden = false;
    draw();
    await askTypes(); // before the first connection, so that it need not be made twice
    connect();
    Streams.every(2000, async () => {
      if (source.readyState === EventSource.OPEN) await askTypes();
    });
    Streams.every(500, complete);
    Streams.every(1000, drawRate);
  }
  begin();
}
