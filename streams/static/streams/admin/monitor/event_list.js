// The list of events in the live monitor: adds, filters, pauses and announces events and notices.
"use strict";

const EventList = (() => {
  const MAX_ROWS = 200;
  const MAX_WAITING = 1000;
  const MAX_WAITING_CHARACTERS = 8_000_000; // of data
  const MAX_SHOWN_CHARACTERS = 2000; // of the data of one event
  const ANNOUNCE_MILLISECONDS = 3000;

  const byId = (id) => document.getElementById(id);
  const list = byId("events");
  const messageUrl = JSON.parse(byId("watch").textContent).message_url;
  const clock = new Intl.DateTimeFormat(document.documentElement.lang || undefined, {
    year: "numeric",
    month: "2-digit",
    day: "2-digit",
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    timeZoneName: "short", // show it, because the browser's time zone can differ from the site's
  });

  // Records are sorted from newest to oldest. Each has an `element` after it was drawn.
  let records = [];
  let pending = []; // received but not drawn yet
  let paused = false;
  let pendingCharacters = 0;
  let dropped = 0;
  let received = 0;
  let drawTimer = null;

  const filterText = () => byId("filter").value.toLowerCase();

  function matches(record, text) {
    if (!text || record.kind === "notice") return true;
    return [record.channel ?? "", record.type, record.data].some((part) => part.toLowerCase().includes(text));
  }

  const isOverLimit = () => pending.length > MAX_WAITING || pendingCharacters > MAX_WAITING_CHARACTERS;

  function add(record) {
    if (record.kind === "message") received += 1;
    pending.push(record);
    pendingCharacters += record.data?.length ?? 0;
    if (isOverLimit() && !paused) draw();
    while (isOverLimit() && pending.length > 1) {
      pendingCharacters -= pending.shift().data?.length ?? 0;
      dropped += 1;
    }
    drawTimer ??= setTimeout(draw, 100);
  }

  // Sort by id, because events of a new type arrive late. Never move an event below a notice of a gap: the events below
  // might be from another log.
  function insert(record) {
    let index = 0;
    for (const [below, other] of records.entries()) {
      if (record.kind !== "message" || (other.kind === "message" ? other.id <= record.id : other.type !== "older")) break;
      if (other.kind === "message") index = below + 1;
    }
    records.splice(index, 0, record);
  }

  // Remove records that the filter hides before others.
  function trim(text) {
    while (records.length > MAX_ROWS) {
      let index = text ? records.findLastIndex((record) => !matches(record, text)) : -1;
      if (index < 0) index = records.length - 1;
      records.splice(index, 1)[0].element?.remove();
    }
  }

  function draw() {
    clearTimeout(drawTimer);
    drawTimer = null;
    const text = filterText();
    if (!paused) {
      announce(pending);
      for (const record of pending) {
        insert(record);
        trim(text);
      }
      pending = [];
      pendingCharacters = dropped = 0;
    }
    let shown = 0;
    records.forEach((record, index) => {
      record.element ??= record.kind === "message" ? createRow(record) : createNotice(record);
      if (list.children[index] !== record.element) list.insertBefore(record.element, list.children[index] ?? null);
      record.element.hidden = !matches(record, text);
      if (!record.element.hidden) shown += 1;
    });
    byId("none").hidden = records.length > 0;
    byId("none-match").hidden = shown > 0 || records.length === 0;
    const waiting = Streams.text(dropped ? "waiting-dropped" : "waiting", { n: pending.length, dropped });
    Streams.setText(byId("waiting"), paused ? waiting : "");
    const count = Streams.text(text ? "count-filtered" : "count", { n: received, shown, kept: records.length });
    Streams.setText(byId("count"), count);
  }

  function createRow(record) {
    const row = byId("event").content.firstElementChild.cloneNode(true);
    row.classList.add("fresh");
    row.querySelector(".id").textContent = Streams.text("event", { id: record.id });
    Streams.show(row.querySelector(".type"), record.type);
    record.element = row;
    update(record);
    fillData(row, record.data);
    return row;
  }

  // Show what is known about an event: its time, channel and publisher, and a link to its page.
  function update(record) {
    const row = record.element;
    const time = row.querySelector("time");
    time.dateTime = record.at.toISOString();
    time.textContent = clock.format(record.at);
    const channel = row.querySelector(".channel");
    if (record.channel) Streams.show(channel, record.channel);
    else channel.textContent = Streams.text(record.isComplete ? "no-channel" : "finding-channel");
    if (record.by) Streams.show(row.querySelector(".publisher"), Streams.text("publisher", { name: record.by }));
    if (record.pk) row.querySelector(".id").href = messageUrl.replace(/\/0\/(?=[^/]*\/$)/, `/${record.pk}/`);
  }

  function fillData(row, data) {
    const element = row.querySelector(".data");
    const text = Streams.pretty(data);
    // Only data that scrolls gets a tab stop, because there can be two hundred rows.
    const lines = text.split("\n").reduce((sum, line) => sum + 1 + Math.floor(line.length / 40), 0);
    if (lines > 15) element.tabIndex = 0;
    if (text.length <= MAX_SHOWN_CHARACTERS) {
      Streams.show(element, text || Streams.text("empty-data"));
      return;
    }
    const start = Streams.shorten(text, MAX_SHOWN_CHARACTERS);
    Streams.show(element, `${start} …`);
    const more = row.querySelector(".more");
    more.hidden = false;
    more.querySelector("span").textContent = Streams.text("cut", { n: (text.length - start.length).toLocaleString() });
    const button = more.querySelector("button");
    button.textContent = Streams.text("show-all", { n: text.length.toLocaleString() });
    button.addEventListener("click", () => {
      Streams.show(element, text);
      more.hidden = true;
      element.focus();
    });
  }

  function createNotice(record) {
    const row = byId("notice").content.firstElementChild.cloneNode(true);
    row.dataset.kind = record.type;
    row.querySelector("strong").textContent = record.title;
    Streams.show(row.querySelector("span"), record.text);
    if (record.data !== undefined) {
      row.querySelector(".data").hidden = false;
      Streams.show(row.querySelector(".data"), Streams.shorten(Streams.pretty(record.data), MAX_SHOWN_CHARACTERS));
    }
    return row;
  }

  // Announce at most one sentence every few seconds, or a screen reader would be busy for minutes after a burst.
  let unannounced = { n: 0 };
  let announceTimer = null;
  function announce(added) {
    const events = added.filter((record) => record.kind === "message");
    if (!events.length) return;
    const { id, type } = events.at(-1);
    unannounced = { n: unannounced.n + events.length, id, type };
    announceTimer ??= setTimeout(() => {
      const sentence = Streams.text(unannounced.n === 1 ? "announce-one" : "announce", unannounced);
      Streams.show(byId("announcement"), sentence);
      unannounced = { n: 0 };
      announceTimer = null;
    }, ANNOUNCE_MILLISECONDS);
  }

  // The drawn events whose channel, time and publisher are not known yet.
  function incomplete() {
    return records.filter((record) => record.kind === "message" && !record.isComplete).slice(0, MAX_ROWS);
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

  return { add, draw, update, incomplete };
})();
