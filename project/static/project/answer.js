// One answer on its way: follows a generation's events to its end, over connections that are lost and servers that restart.
"use strict";

const LONGEST_PAUSE_SECONDS = 30;
const ASK_SECONDS = 20; // for a request's answer
const QUIET_SECONDS = 20; // without a word, after which the server is asked: a connection may be dead without a sign
const ENDED = ["done", "failed", "cancelled", "interrupted"];
const GONE = ["gone", "refused"]; // what the answers 404 and 403 come to

// A day's clients that all come back at once would be too many: each waits a little longer than the last time, and not
// quite as long as the others.
function longer(pause) {
  return Math.min(LONGEST_PAUSE_SECONDS, pause ? pause * (1.5 + Math.random()) : 1);
}

class Answer {
  // `generation` is what the server told of it. `changed()` is called where `text` or `isLost` are new, and
  // `ended(outcome)` once, with {state, text, error, finish_reason}.
  constructor(generation, { changed, ended }) {
    this.generation = generation;
    this.text = ""; // what is known of it
    this.heardText = ""; // what the events have told so far: all of the text, but later where they begin again
    this.heardPieces = 0;
    this.isLost = false;
    this.changed = changed;
    this.ended = ended;
    this.pause = 0;
    this.timer = null;
    this.source = null;
    this.hear();
    this.watch = setInterval(() => {
      if (!this.timer && Date.now() - this.heard > QUIET_SECONDS * 1000) this.check();
    }, 5000);
    this.open();
  }

  close() {
    clearInterval(this.watch);
    clearTimeout(this.timer);
    this.source.close();
    this.isClosed = true;
  }

  hear() {
    this.heard = Date.now();
  }

  // --- Events ---

  open() {
    this.source?.close();
    this.heardText = "";
    this.heardPieces = 0; // a new EventSource knows no last id, and so is sent all from the beginning
    this.source = new EventSource(this.generation.events_url);
    this.source.onopen = () => this.listen(() => {});
    this.source.onmessage = (event) => this.listen(() => this.piece(JSON.parse(event.data)));
    this.source.addEventListener("stream-snapshot", (event) => this.listen(() => this.take(JSON.parse(event.data))));
    this.source.addEventListener("stream-checkpoint", () => this.listen(() => {}));
    this.source.addEventListener("end", (event) => this.end(JSON.parse(event.data), this.heardText));
    this.source.onerror = () => {
      this.lose();
      // Otherwise the browser comes back by itself. At an answer that is no stream, from the server or from a proxy
      // before it, it gives up for good; so it does after the end, where the server has no more to say.
      if (this.source.readyState === EventSource.CLOSED) this.later();
    };
  }

  listen(act) {
    this.hear();
    this.pause = 0;
    this.isLost = false;
    act();
    if (!this.isClosed) this.changed();
  }

  piece({ n, text }) {
    if (n < this.heardPieces) return;
    if (n > this.heardPieces) {
      // Something is missing, and the server has it.
      this.source.close();
      this.pause = longer(0);
      this.later();
      return;
    }
    this.take({ n: n + 1, text: this.heardText + text });
  }

  take({ n, text }) {
    this.heardPieces = n;
    this.heardText = text;
    this.know(text);
  }

  know(text) {
    if (text.length > this.text.length) this.text = text;
  }

  end({ state, error = null, finish_reason = null }, text) {
    this.close();
    this.ended({ state, error, finish_reason, text });
  }

  // --- Where the events do not come ---

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

  // What is waited for may be there by now: try at once.
  hurry() {
    if (!this.timer) return;
    this.pause = 0;
    this.later();
  }

  // Ask how the answer stands, and take it from there.
  async check() {
    if (this.isChecking) return;
    this.hear();
    this.isChecking = true;
    const told = await this.ask();
    this.isChecking = false;
    if (this.isClosed) return;
    if (!told) {
      this.lose();
      this.later();
      return;
    }
    if (GONE.includes(told.state)) {
      this.end(told, this.text);
    } else if (ENDED.includes(told.state)) {
      this.end(told, told.text);
    } else {
      this.know(told.text);
      this.changed();
      if (told.chunks > this.heardPieces || this.source.readyState === EventSource.CLOSED) this.open();
    }
  }

  // The generation as the server tells it, or null where it does not.
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
