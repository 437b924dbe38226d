// An EventSource on fetch that always reconnects, and that tabs can share. Options: docs/guides/javascript.md.

/**
 * @typedef {{ status: number, code: string, message: string }} StreamError
 * @typedef {object} StreamOptions
 * @property {boolean | string} [shared] by all tabs; a text names the user
 * @property {() => string | Promise<string>} [token] returns a new token
 * @property {HeadersInit} [headers]
 * @property {boolean} [withCredentials]
 * @property {number} [silenceSeconds] until it reconnects
 * @property {(error: StreamError) => void} [onError]
 * @property {(event: MessageEvent) => void} [onReset]
 * @property {(event: MessageEvent) => void} [onSnapshot]
 */

export class Stream extends EventTarget {
  static CONNECTING = 0;
  static OPEN = 1;
  static CLOSED = 2;

  /** @type {((event: any) => void) | null} */
  onopen = null;
  /** @type {((event: MessageEvent) => void) | null} */
  onmessage = null;
  /** @type {((event: any) => void) | null} */
  onerror = null;
  readyState = 0;
  lastEventId = "";

  #options;
  #target;
  #name;
  #token = "";
  #refused = false; // the current token
  #retry = 3000;
  #failures = 0;
  #heard = 0; // Infinity before a retry
  #partial = ""; // block
  #trust = 0; // 5 once the server accepts lastEventId, and has sent what comes first
  #leading = false;
  #timer = 0;
  #interval = 0;
  /** @type {AbortController | undefined} undefined while following another tab */
  #connection;
  /** @type {AbortController | undefined} */
  #claim;
  /** @type {BroadcastChannel | undefined} */
  #channel;
  #life = new AbortController();

  /** @param {string | URL} url @param {StreamOptions} [options] */
  constructor(url, options = {}) {
    super();
    const { shared, token, headers, onError, onReset, onSnapshot } = (this.#options = options);
    if (shared === true && (token || headers)) throw TypeError("With token or headers, shared must name the user.");
    const { href, searchParams } = (this.#target = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href));
    this.url = href;
    for (const name of [...searchParams.keys()]) {
      if (!/^last[-_]?event[-_]?id$/i.test(name)) continue;
      this.lastEventId = searchParams.get(name) || this.lastEventId;
      searchParams.delete(name);
    }
    this.withCredentials = !!options.withCredentials;
    this.#name = `streams ${shared} ${this.withCredentials} ${this.#target}`;

    /** @type {Record<string, ((event: any) => void) | undefined>} */
    const listeners = {
      open: (event) => this.onopen?.(event),
      message: (event) => this.onmessage?.(event),
      error: (event) => {
        if (event.detail) onError?.(event.detail);
        this.onerror?.(event);
      },
      "stream-error": ({ data }) => onError?.({ status: 200, ...JSON.parse(data) }),
      "stream-reset": onReset,
      "stream-snapshot": onSnapshot,
    };
    for (const type in listeners) if (listeners[type]) this.addEventListener(type, listeners[type]);

    const pause = () => this.#pause();
    const start = () => this.#interval || this.#start();
    /** @type {Record<string, () => unknown>} */
    const hooks = {
      pagehide: pause, // for the back/forward cache
      pageshow: start,
      freeze: pause,
      resume: start,
      online: () => this.#connection && this.#connect(),
      visibilitychange: () => document.hidden || this.#check(true),
    };
    const { signal } = this.#life;
    for (const type in hooks) globalThis.addEventListener?.(type, hooks[type], { capture: true, signal });
    this.#start();
  }

  get state() {
    return /** @type {const} */ (["connecting", "open", "closed"])[this.readyState];
  }

  close() {
    this.#life.abort();
    this.#pause();
    this.#show(2);
  }

  #start() {
    this.#interval = +setInterval(() => this.#check(), 5000);
    this.#heard = Date.now();
    if (!this.#options.shared || !globalThis.navigator?.locks) return void this.#connect();
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    this.#channel.postMessage({}); // asks for the leader's state
    const { signal } = (this.#claim = new AbortController());
    const lead = () => {
      this.#leading = true;
      if (!this.#connection) this.#connect();
      return new Promise((resolve) => signal.addEventListener("abort", resolve));
    };
    navigator.locks.request(this.#name, { signal }, lead).catch(() => {});
    this.#timer = +setTimeout(() => this.#connect(), 1000); // without a leader
  }

  #pause() {
    clearInterval(this.#interval);
    clearTimeout(this.#timer);
    this.#claim?.abort();
    this.#connection?.abort();
    this.#channel?.close();
    this.#connection = this.#channel = undefined;
    this.#interval = this.#trust = 0;
    this.#leading = false;
  }

  /** Timers stop while the computer sleeps. @param {boolean} [hurry] */
  #check(hurry) {
    this.#tell();
    const { silenceSeconds = 50 } = this.#options;
    if (this.#heard === Infinity ? hurry : Date.now() - this.#heard > 1000 * silenceSeconds) this.#connect();
  }

  /** @param {number} state @param {StreamError | null} [error] null if the server ended the stream */
  #show(state, error) {
    const changed = state !== this.readyState;
    this.readyState = state;
    this.#tell({ error });
    if (error !== undefined) this.dispatchEvent(new CustomEvent("error", { detail: error }));
    if (!changed) return;
    if (state === 1) this.dispatchEvent(new Event("open"));
    this.dispatchEvent(new Event("stream-state"));
  }

  async #connect() {
    clearTimeout(this.#timer);
    this.#connection?.abort();
    const connection = (this.#connection = new AbortController());
    const { signal } = connection;
    const { token } = this.#options;
    this.#partial = "";
    this.#trust = this.lastEventId ? 2 : 0;
    this.#heard = Date.now();
    this.#show(0);
    let wait = 0;
    /** @type {StreamError | null} */
    let error = null;
    try {
      const url = new URL(this.#target);
      const headers = new Headers(this.#options.headers);
      headers.set("Accept", "text/event-stream");
      // A header would need a CORS preflight.
      if (this.lastEventId) url.searchParams.set("last_event_id", this.lastEventId);
      const renew = token && (this.#refused || !(this.#token || url.searchParams.has("token")));
      if (renew) this.#token = await token();
      if (this.#token) {
        url.searchParams.delete("token");
        headers.set("Authorization", `Bearer ${this.#token}`);
      }
      const credentials = this.withCredentials ? "include" : "same-origin";
      const response = await fetch(url, { headers, credentials, cache: "no-store", signal });
      const { status, body } = response;
      if (status === 204) return this.close();
      const type = response.headers.get("Content-Type") ?? "";
      if (status === 200 && body && /^text\/event-stream\s*(;|$)/i.test(type)) {
        this.#refused = false;
        const parse = this.#parser(new URL(response.url || url).origin, signal);
        const reader = body.getReader();
        const decoder = new TextDecoder();
        for (let piece; !(piece = await reader.read()).done; this.#tell()) {
          this.#heard = Date.now();
          if (this.#trust > 2) this.#trust = 5;
          parse(decoder.decode(piece.value, { stream: true }));
        }
      } else {
        const after = response.headers.get("Retry-After") ?? "";
        wait = +after * 1000 || Date.parse(after) - Date.now() || 0;
        error = { status, code: "no-stream", message: `Not a stream: status ${status}, type ${type}.` };
        this.#refused = status === 401 || status === 403;
        if (this.#refused && token && !renew) return void this.#connect();
        if (/json/.test(type)) Object.assign(error, (await response.json()).error);
      }
    } catch (reason) {
      error ??= { status: 0, code: "network", message: `${reason}` };
    }
    if (signal.aborted) return;
    connection.abort();
    this.#heard = Infinity;
    const pause = Math.max(100, this.#retry) * 2 ** this.#failures++;
    wait = Math.max(wait, Math.min(pause, Math.max(this.#retry, 30_000)));
    this.#timer = +setTimeout(() => this.#connect(), Math.min(wait * (1 + Math.random() / 2), 1e9));
    this.#show(0, error);
  }

  /** @param {string} origin @param {AbortSignal} signal */
  #parser(origin, signal) {
    let [unfinished, data, type, afterCR] = ["", "", "", false];
    /** @type {string | undefined} */
    let id;
    return (/** @type {string} */ text) => {
      if (!text) return;
      if (afterCR && text[0] === "\n") text = text.slice(1);
      afterCR = text.endsWith("\r");
      const lines = text.split(/\r\n?|\n/);
      lines[0] = unfinished + lines[0];
      unfinished = /** @type {string} */ (lines.pop());
      for (const line of lines) {
        if (signal.aborted) return; // by a listener
        const [, field, value] = /** @type {string[]} */ (/^([^:]*):? ?(.*)$/s.exec(line));
        // During an outage, only `retry` arrives.
        if (line && field !== "retry") {
          this.#failures = 0;
          if (this.readyState !== 1) this.#show(1);
        }
        if (field === "data") data += `${value}\n`;
        else if (field === "event") type = value;
        else if (field === "id" && !value.includes("\0")) id = value;
        else if (field === "retry" && /^\d+$/.test(value)) this.#retry = +value;
        else if (!line) {
          if (data || id !== undefined) this.#take({ type: type || "message", data, id, origin });
          data = type = "";
          id = undefined;
        }
      }
      this.#partial = unfinished + data + type;
    };
  }

  /** @param {any} block */
  #take({ type, data, id, origin }) {
    this.#tell({ type, data, id, origin });
    if (id !== undefined) {
      this.lastEventId = id;
      this.#trust = type === "stream-reset" ? 3 : this.#trust + 3;
    }
    if (type === "stream-checkpoint" && !this.#leading && this.#connection) this.#channel?.postMessage({});
    if (type === "stream-error" && /"revoked"/.test(data)) this.#refused = true;
    const { lastEventId } = this;
    if (data) this.dispatchEvent(new MessageEvent(type, { data: data.slice(0, -1), origin, lastEventId }));
  }

  // The tab with the lock leads: it passes on each block, with the cursor before it. A tab that has missed something,
  // or hears nothing, reads from the server until it has caught up.

  /** @param {object} [block] */
  #tell(block) {
    if (this.#leading) this.#channel?.postMessage({ ...block, before: this.lastEventId, open: this.readyState });
  }

  /** @param {any} message */
  #hear(message) {
    const { type, id, before, open, error } = message;
    if (this.#leading && before === undefined) {
      if (this.#heard === Infinity) this.#connect();
      this.#tell();
    }
    if (this.#leading || before === undefined) return;
    const cursor = this.lastEventId;
    // Without trust, the cursor might be of a replaced log.
    const has = (/** @type {string} */ position) =>
      cursor === position || (this.#trust > 4 && position !== "" && +cursor >= +position);
    const reset = type === "stream-reset";
    const own = this.#connection;
    if (own) {
      if (reset) return this.#connect();
      if (!open || this.#partial || (this.readyState && this.#trust < 5) || !has(before)) return;
      own.abort();
      this.#connection = undefined;
    } else if (!reset && !has(before)) return this.#connect();
    clearTimeout(this.#timer);
    this.#heard = Date.now();
    this.#trust = 5;
    this.#show(open, error);
    // A snapshot repeats an id.
    const known = id !== undefined && has(id) && (own || id !== before || id !== cursor);
    if (type && this.readyState < 2 && (reset || !known)) this.#take(message);
  }
}
