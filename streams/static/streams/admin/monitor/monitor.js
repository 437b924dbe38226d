// The live monitor: starts the stream, draws the chart, and loads what a stream does not contain about its events.
"use strict";

{
  const CHART_SECONDS = 60;
  const RETRY_SECONDS = 5;
  const TYPES_MILLISECONDS = 2000;
  const DETAILS_MILLISECONDS = 500;
  const CHART_MILLISECONDS = 1000;

  const byId = (id) => document.getElementById(id);
  const watch = JSON.parse(byId("watch").textContent);

  // --- The channel, the time and the publisher of each event ---

  let retryAt = 0;
  async function loadDetails() {
    const events = EventList.incomplete();
    if (!events.length || Date.now() < retryAt || !MonitorStream.isOpen()) return;
    const ids = events.map((record) => record.id).join(",");
    const { ok, data } = await Streams.fetchJSON(`${watch.events_url}?ids=${ids}`);
    if (!ok) {
      retryAt = Date.now() + RETRY_SECONDS * 1000;
      return;
    }
    for (const record of events) {
      const found = data.events[record.id];
      record.isComplete = true;
      if (found) Object.assign(record, { channel: found.channel, at: new Date(found.at), by: found.by, pk: found.pk });
      EventList.update(record);
    }
    EventList.draw();
  }

  // --- The chart ---

  const arrivals = new Map(); // {second: number of messages}

  function countArrival() {
    const now = Math.floor(Date.now() / 1000);
    arrivals.set(now, (arrivals.get(now) ?? 0) + 1);
    if (arrivals.size > CHART_SECONDS + 1) forgetArrivals(now);
  }

  function forgetArrivals(now) {
    for (const second of arrivals.keys()) if (second < now - CHART_SECONDS) arrivals.delete(second);
  }

  function drawChart() {
    const now = Math.floor(Date.now() / 1000);
    forgetArrivals(now);
    const values = Array.from({ length: CHART_SECONDS }, (_, index) => arrivals.get(now - CHART_SECONDS + index) ?? 0);
    Streams.drawBars(byId("rate"), values, CHART_SECONDS);
    const sum = values.reduce((total, value) => total + value, 0);
    byId("rate-text").textContent = Streams.text("rate", { now: values.at(-1), maximum: Math.max(...values), sum });
  }

  byId("monitor").hidden = false;
  EventList.draw();
  // The chart does not count the messages of the first replay, which were published before.
  MonitorStream.start((isLive) => {
    if (isLive) countArrival();
  });
  Streams.poll(TYPES_MILLISECONDS, async () => {
    if (MonitorStream.isOpen()) await MonitorStream.checkTypes();
  });
  Streams.poll(DETAILS_MILLISECONDS, loadDetails);
  Streams.poll(CHART_MILLISECONDS, drawChart);
}
