// An answer in progress: follows the events of a generation until its end, through lost connections and server restarts.
"use strict";

const LONGEST_PAUSE_SECONDS = 30;
const ASK_SECONDS = 20; // timeout of a request
const QUIET_SECONDS = 20; // then ask the server, because a dead connection can go unnoticed
const ENDED = ["done", "failed", "cancelled", "interrupted"];
const GONE = ["gone", "refused"]; // for the status codes 404 and 403

// Exponential backoff with jitter, so that not all clients reconnect at the same time.
function longer(pause) {
  return Math.min(LONGEST_PAUSE_SECONDS, pause ? pause * (1.5 + Math.random()) : 1);
}

class Answer {
  // `generation` is the server's JSON. `changed()` is called when `text` or `isLost` has changed. `ended(outcome)` is
  // called once, with {state, text, error, finish_reason}.
  constructor(generation, { changed, ended }) {
    this.generation = generation;
    this.text = ""; // the text received so far
    this.receivedText = ""; // the text from the current EventSource; shorter than `text` during a replay
    this.receivedChunks = 0;
    this.isLost = false;
    this.changed = changed;
    this.ended = ended;
    this.pause = 0;
    this.timer = null;
    this.source = null;
    this.noteActivity();
    this.watch = setInterval(() => {
      if (!this.timer && Date.now() - this.lastReceived > QUIET_SECONDS * 1000) this.check();
    }, 5000);
    this.open();
  }

  close() {
    clearInterval(this.watch);
    clearTimeout(this.timer);
    this.source.close();
    this.isClosed = true;
  }

  noteActivity() {
    this.lastReceived = Date.now();
  }

  // --- Events ---

  open() {
    this.source?.close();
    this.receivedText = "";
    this.receivedChunks = 0; // a new EventSource has no last event id, so it receives all events again
    this.source = new EventSource(this.generation.events_url);
    this.source.onopen = () => this.listen(() => {});
    this.source.onmessage = (event) => this.listen(() => this.piece(JSON.parse(event.data)));
    this.source.addEventListener("stream-snapshot", (event) => this.listen(() => this.take(JSON.parse(event.data))));
    this.source.addEventListener("stream-checkpoint", () => this.listen(() => {}));
    this.source.addEventListener("end", (event) => this.end(JSON.parse(event.data), this.receivedText));
    this.source.onerror = () => {
      this.lose();
      // Otherwise the browser reconnects by itself. It gives up if the response is not a stream, from the server or from
      // a proxy, or after the end of the answer.
      if (this.source.readyState === EventSource.CLOSED) this.later();
    };
  }

  listen(act) {
    this.noteActivity();
    this.pause = 0;
    this.isLost = false;
    act();
    if (!this.isClosed) this.changed();
  }

  piece({ n, text }) {
    if (n < this.receivedChunks) return;
    if (n > this.receivedChunks) {
      // Some text is missing, so get it from the server.
      this.source.close();
      this.pause = longer(0);
      this.later();
      return;
    }
    this.take({ n: n + 1, text: this.receivedText + text });
  }

  take({ n, text }) {
    this.receivedChunks = n;
    this.receivedText = text;
    this.know(text);
  }

  know(text) {
    if (text.length > this.text.length) this.text = text;
  }

  end({ state, error = null, finish_reason = null }, text) {
    this.close();
    this.ended({ state, error, finish_reason, text });
  }

  // --- Without events ---

  lose() {
    this.isLost = true;
    this.changed();
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.timer = null;
      this.check();
    }, this.pause * 1000);
    this.pause = longer(this.pause);
  }

  // Try again at once.
  hurry() {
    if (!this.timer) return;
    this.pause = 0;
    this.later();
  }

  // Get the state of the generation, and continue from there.
  async check() {
    if (this.isChecking) return;
    this.noteActivity();
    this.isChecking = true;
    const current = await this.ask();
    this.isChecking = false;
    if (this.isClosed) return;
    if (!current) {
      this.lose();
      this.later();
      return;
    }
    if (GONE.includes(current.state)) {
      this.end(current, this.text);
    } else if (ENDED.includes(current.state)) {
      this.end(current, current.text);
    } else {
      this.know(current.text);
      this.changed();
      if (current.chunks > this.receivedChunks || this.source.readyState === EventSource.CLOSED) this.open();
    }
  }

  // Resolves to the generation, or to null if the server does not return it.
  async ask() {
    try {
      const response = await fetch(this.generation.url, {
        headers: { Accept: "application/json" },
        cache: "no-store",
        signal: AbortSignal.timeout(ASK_SECONDS * 1000),
      });
      if (response.status === 404) return { state: "gone" };
      if (response.status === 403) return { state: "refused" };
      return response.ok ? await response.json() : null;
    } catch {
      return null;
    }
  }
}
