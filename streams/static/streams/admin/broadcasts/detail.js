// A broadcast's other pages: who listens while one confirms, the chosen time where one is, and whom it has reached.
"use strict";

(() => {
  const { text, ask, every } = Streams;
  const byId = (id) => document.getElementById(id);
  const COUNT_MILLISECONDS = 2000;

  // --- Confirming ---

  const counts = byId("counts");
  if (counts) {
    const cells = [...counts.querySelectorAll("[data-channel]")];
    every(COUNT_MILLISECONDS, async () => {
      const wanted = new URLSearchParams(cells.map((cell) => ["channel", cell.dataset.channel]));
      const { ok, data } = await ask(`${counts.dataset.url}?${wanted}`);
      if (!ok) return;
      for (const cell of cells) cell.textContent = data.channels[cell.dataset.channel] ?? 0;
      const button = byId("send-to");
      const nobody = data.is_whole ? "nobody" : "unknown";
      byId("nobody").hidden = data.total > 0 || !data.is_whole;
      if (button) button.textContent = text(data.total === 0 ? nobody : data.total === 1 ? "send-to-one" : "send-to", { n: data.total });
    });
  }

  // --- Scheduling ---

  const elsewhere = byId("elsewhere");
  if (elsewhere) {
    const field = byId("schedule").elements.send_at;
    const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
    // The moment that a wall clock in `zone` shows: guess by UTC, and correct by what that zone then shows.
    const momentIn = (zone, wall) => {
      const format = new Intl.DateTimeFormat("sv", { timeZone: zone, dateStyle: "short", timeStyle: "medium" });
      const wanted = Date.parse(`${wall}Z`);
      let moment = wanted;
      for (let i = 0; i < 2; i += 1) {
        moment += wanted - Date.parse(`${format.format(moment).replace(" ", "T")}Z`);
      }
      return moment;
    };
    const tell = () => {
      elsewhere.textContent = "";
      const zone = elsewhere.dataset.zone;
      if (!field.value || zone === here) return;
      try {
        const time = new Intl.DateTimeFormat(document.documentElement.lang || undefined, {
          dateStyle: "medium",
          timeStyle: "short",
        }).format(momentIn(zone, field.value));
        elsewhere.textContent = text("elsewhere", { time, zone: here });
      } catch {
        // A time zone that this browser does not know.
      }
    };
    field.addEventListener("input", tell);
    tell();
  }

  // --- Until it goes out ---

  const scheduled = byId("scheduled");
  if (scheduled) {
    every(COUNT_MILLISECONDS, async () => {
      const { ok, data } = await ask(scheduled.dataset.url);
      if (ok && data.state !== "scheduled") location.reload();
    });
  }

  // --- After sending ---

  const served = byId("served");
  if (served?.dataset.counting === "yes") {
    let counting = true;
    every(COUNT_MILLISECONDS, async () => {
      if (!counting) return;
      const { ok, data } = await ask(served.dataset.url);
      if (!ok) return;
      const now = text("served", { n: data.served });
      if (served.textContent !== now) served.textContent = now;
      counting = data.counting;
    });
  }

  // A double click on what cannot be taken back. The server sends once all the same.
  const confirm = byId("confirm");
  let isSubmitting = false;
  confirm?.addEventListener("submit", (event) => {
    if (isSubmitting) return event.preventDefault();
    isSubmitting = true;
    setTimeout(() => (isSubmitting = false), 5000); // should the server not answer
  });
  window.addEventListener("pageshow", () => {
    isSubmitting = false;
  });
})();
