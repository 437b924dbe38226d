// The pages for sending, scheduling and viewing a broadcast: connections, local time, and the connections reached.
"use strict";

(() => {
  const { text, setText, fetchJSON, poll } = Streams;
  const byId = (id) => document.getElementById(id);
  const POLL_MILLISECONDS = 2000;

  // --- Confirm sending ---

  const counts = byId("counts");
  if (counts) {
    const cells = [...counts.querySelectorAll("[data-channel]")];
    poll(POLL_MILLISECONDS, async () => {
      const wanted = new URLSearchParams(cells.map((cell) => ["channel", cell.dataset.channel]));
      const { ok, data } = await fetchJSON(`${counts.dataset.url}?${wanted}`);
      if (!ok) return;
      for (const cell of cells) cell.textContent = data.channels[cell.dataset.channel] ?? 0;
      const button = byId("send-to");
      const zero = data.is_complete ? "no-connections" : "unknown";
      byId("no-connections").hidden = data.total > 0 || !data.is_complete;
      const label = data.total === 0 ? zero : data.total === 1 ? "send-to-one" : "send-to";
      if (button) button.textContent = text(label, { n: data.total });
    });
  }

  // --- Choose the time ---

  const localTime = byId("local-time");
  if (localTime) {
    const field = byId("schedule").elements.send_at;
    const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
    // Convert a local time in `zone` to a timestamp: start with the same time in UTC, then correct it by the difference.
    const toTimestamp = (zone, local) => {
      const format = new Intl.DateTimeFormat("sv", { timeZone: zone, dateStyle: "short", timeStyle: "medium" });
      const wanted = Date.parse(`${local}Z`);
      let timestamp = wanted;
      for (let i = 0; i < 2; i += 1) {
        timestamp += wanted - Date.parse(`${format.format(timestamp).replace(" ", "T")}Z`);
      }
      return timestamp;
    };
    const showLocalTime = () => {
      localTime.textContent = "";
      const zone = localTime.dataset.zone;
      if (!field.value || zone === here) return;
      try {
        const time = new Intl.DateTimeFormat(document.documentElement.lang || undefined, {
          dateStyle: "medium",
          timeStyle: "short",
        }).format(toTimestamp(zone, field.value));
        localTime.textContent = text("local-time", { time, zone: here });
      } catch {
        // This browser does not know the time zone.
      }
    };
    field.addEventListener("input", showLocalTime);
    showLocalTime();
  }

  // --- Wait until a scheduled broadcast is sent ---

  const scheduled = byId("scheduled");
  if (scheduled) {
    poll(POLL_MILLISECONDS, async () => {
      const { ok, data } = await fetchJSON(scheduled.dataset.url);
      if (ok && data.state !== "scheduled") location.reload();
    });
  }

  // --- Connections reached ---

  const reached = byId("reached");
  if (reached?.dataset.counting === "yes") {
    let isCounting = true;
    poll(POLL_MILLISECONDS, async () => {
      if (!isCounting) return;
      const { ok, data } = await fetchJSON(reached.dataset.url);
      if (!ok) return;
      setText(reached, text("reached", { n: data.reached }));
      isCounting = data.counting;
    });
  }

  // Ignore a double click. The server would send the broadcast only once anyway.
  const confirm = byId("confirm");
  let isSubmitting = false;
  confirm?.addEventListener("submit", (event) => {
    if (isSubmitting) return event.preventDefault();
    isSubmitting = true;
    setTimeout(() => (isSubmitting = false), 5000); // in case the server does not respond
  });
  window.addEventListener("pageshow", () => {
    isSubmitting = false;
  });
})();
