// The page of the processes: updates the table and the charts every few seconds.
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
      Streams.drawBars(byId(name), data[name], data.size);
      byId(`${name}-text`).textContent = data[`${name}_text`];
    }
  }

  let first = true;
  let failed = false;
  show(JSON.parse(byId("data").textContent));
  Streams.poll(Number(seconds) * 1000, async () => {
    if (first) {
      first = false; // the page was loaded with current data
      return;
    }
    const { ok, data } = await Streams.fetchJSON(url);
    if (ok) show(data);
    const status = ok
      ? Streams.text("updated", { time: clock.format(new Date()) })
      : Streams.text("not-updated", { problem: data.errors.join(" ") });
    // Screen readers announce an error and its end, but not each successful update.
    byId("updated").setAttribute("aria-live", ok && !failed ? "off" : "polite");
    byId("updated").textContent = status;
    failed = !ok;
  });
}
