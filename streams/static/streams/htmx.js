// Lets the streams of htmx's sse extension continue where they ended, after a status or an error too.
//
// Load it after htmx and its extension. There is nothing to set:
//
//   <script src="htmx.min.js"></script>
//   <script src="sse.js"></script>
//   <script src="{% static 'streams/htmx.js' %}"></script>
//
// By itself, the extension replaces an EventSource that gave up, for example at a 502, by a new one with the URL of
// the page. The new one does not know what the page has received, so that events come twice or not at all. This
// script gives htmx a source that stays the same: it replaces the EventSource inside, and puts the last id into the
// URL. htmx therefore never sees a closed source.
(() => {
  "use strict";

  // The server prefers it to the page's own cursor in `last_event_id`.
  const CURSOR = "lastEventId";

  // Control events with an id. They move the cursor even if the page does not listen to them.
  const CONTROL = ["stream-checkpoint", "stream-reset", "stream-snapshot"];

  const FIRST_DELAY = 1000; // milliseconds, doubled after each failure in a row
  const LONGEST_DELAY = 30000;

  /** An EventSource that opens again with the last id after a status or an error, until close() is called. */
  class ResumingSource {
    #listeners = []; // [type, listener, options]
    #cursor = "";
    #failures = 0;
    #timer = 0;
    #closed = false;
    #source;

    /** @param {string} url the URL of the stream, as in the page */
    constructor(url) {
      this.url = new URL(url, document.baseURI).href;
      this.withCredentials = true; // as in htmx's extension
      this.onopen = this.onmessage = this.onerror = null;
      for (const type of ["message", ...CONTROL]) this.#listeners.push([type, this.#note]);
      this.#listeners.push(["message", (event) => this.onmessage?.(event)]);
      this.#open();
    }

    get readyState() {
      if (this.#closed) return EventSource.CLOSED;
      return this.#source.readyState === EventSource.OPEN ? EventSource.OPEN : EventSource.CONNECTING;
    }

    addEventListener(type, listener, options) {
      // Every type that the page listens to moves the cursor. Adding the same function twice has no effect.
      for (const entry of [[type, this.#note], [type, listener, options]]) {
        this.#listeners.push(entry);
        this.#source.addEventListener(...entry);
      }
    }

    removeEventListener(type, listener, options) {
      this.#listeners = this.#listeners.filter((entry) => entry[0] !== type || entry[1] !== listener);
      this.#source.removeEventListener(type, listener, options);
    }

    close() {
      this.#closed = true;
      clearTimeout(this.#timer);
      this.#source.close();
    }

    #note = (event) => {
      if (event.lastEventId) this.#cursor = event.lastEventId;
    };

    #open() {
      const url = new URL(this.url);
      if (this.#cursor) url.searchParams.set(CURSOR, this.#cursor);
      const source = (this.#source = new EventSource(url, { withCredentials: this.withCredentials }));
      for (const entry of this.#listeners) source.addEventListener(...entry);
      source.onopen = (event) => {
        this.#failures = 0;
        this.onopen?.(event);
      };
      source.onerror = (event) => {
        if (source.readyState === EventSource.CLOSED) {
          const delay = Math.min(FIRST_DELAY * 2 ** this.#failures++, LONGEST_DELAY);
          this.#timer = setTimeout(() => this.#open(), delay * (0.5 + Math.random()));
        }
        this.onerror?.(event); // it can call close()
      };
    }
  }

  htmx.createEventSource = (url) => new ResumingSource(url);
})();
