// Tells the test what a page has noted.
"use strict";
const waiting = [];
let count = 0;
let sending = false;

function note(record) {
  waiting.push({ ...record, n: ++count });
  if (!sending) send();
}

// Kept until the server has taken it: it may be down just now. So it may come twice, and has a number.
async function send() {
  sending = true;
  while (waiting.length) {
    const batch = waiting.slice(0, 20);
    try {
      const answer = await fetch("/test/browser/report/", { method: "POST", body: JSON.stringify(batch) });
      if (!answer.ok) throw new Error(answer.status);
      waiting.splice(0, batch.length);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  sending = false;
}
