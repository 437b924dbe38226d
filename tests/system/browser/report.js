// Sends the records of a page to the test.
"use strict";
const waiting = [];
let count = 0;
let sending = false;

function note(record) {
  waiting.push({ ...record, n: ++count });
  if (!sending) send();
}

// The server can be down, so records are kept until it accepts them. A record can arrive twice; its number shows this.
async function send() {
  sending = true;
  while (waiting.length) {
    const batch = waiting.slice(0, 20);
    try {
      const response = await fetch("/test/browser/report/", { method: "POST", body: JSON.stringify(batch) });
      if (!response.ok) throw new Error(response.status);
      waiting.splice(0, batch.length);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  sending = false;
}
