// The processes page: renews its table and its charts every few seconds.
"use strict";

{
  const byId = (id) => document.getElementById(id);
  const { url, seconds } = byId("source").dataset;
  const clock = new Intl.DateTimeFormat(document.documentElement.lang || undefined, { timeStyle: "medium" });

  function fill(row, node) {
    for (const cell of row.querySelectorAll("[data-field]")) {
      const text = String(node[cell.dataset.field]);
      if (cell.dataset.shown !== text) Streams.show(cell, text);
      cell.dataset.shown = text;
    }
    row.dataset.node = node.id;
    row.querySelector("[data-own]").hidden = !node.own;
    row.querySelector(".state").dataset.state = node.state;
    const parts = node.channels.flatMap(([channel, n], index) => {
      const name = document.createElement("code");
      Streams.show(name, channel);
      return [index ? ", " : "", name, ` ${n}`];
    });
    row.querySelector("[data-channels]").replaceChildren(...parts, node.more ? ` ${node.more}` : "");
    return row;
  }

  function show(data) {
    const rows = new Map([...byId("nodes").children].map((row) => [row.dataset.node, row]));
    byId("nodes").replaceChildren(
      ...data.nodes.map((node) => fill(rows.get(node.id) ?? byId("row").content.firstElementChild.cloneNode(true), node)),
    );
    byId("none").hidden = data.nodes.length > 0;
    byId("table").hidden = data.nodes.length === 0;
    byId("summary").textContent = data.summary;
    for (const name of ["connections", "rates"]) {
      Streams.bars(byId(name), data[name], data.room);
      byId(`${name}-text`).textContent = data[`${name}_text`];
    }
  }

  let first = true;
  let failed = false;
  show(JSON.parse(byId("data").textContent));
  Streams.every(Number(seconds) * 1000, async () => {
    if (first) {
      first = false; // what the page came with is fresh
      return;
    }
    const { ok, data } = await Streams.ask(url);
    if (ok) show(data);
    const words = ok
      ? Streams.text("updated", { time: clock.format(new Date()) })
      : Streams.text("not-updated", { problem: data.errors.join(" ") });
    // A problem is spoken, and its end; that all is well is not, every few seconds.
    byId("updated").setAttribute("aria-live", ok && !failed ? "off" : "polite");
    byId("updated").textContent = words;
    failed = !ok;
  });
}
