// What the React hook and the Vue composable have in common: the events of a stream as an immutable state.

import { Stream } from "./streams.js";

/**
 * @typedef {{ id: string, type: string, data: any }} StreamEvent `data` is parsed if it is JSON, and text otherwise
 * @typedef {import("./streams.js").StreamError} StreamError
 *
 * @typedef {object} FollowedStream
 * @property {"connecting" | "open" | "closed"} state
 * @property {readonly StreamEvent[]} events the newest last
 * @property {StreamError | null} error why the stream is not open
 *
 * @typedef {object} FollowOptions
 * @property {readonly string[]} [types] the event types; `["message"]` by default
 * @property {number} [limit] how many events to keep; 100 by default
 * @property {(event: StreamEvent) => void} [onEvent]
 *
 * @typedef {import("./streams.js").StreamOptions & FollowOptions} UseStreamOptions
 */

/** @type {FollowedStream} */
export const EMPTY = { state: "connecting", events: [], error: null };

/** @param {string} text */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * Open a stream, and call `changed` with each new state.
 * @param {string} url
 * @param {UseStreamOptions} options
 * @param {(followed: FollowedStream) => void} changed
 */
export function follow(url, { types = ["message"], limit = 100, onEvent, onError, ...options }, changed) {
  let followed = EMPTY;
  /** @param {Partial<FollowedStream>} change */
  const set = (change) => changed((followed = { ...followed, ...change }));
  const stream = new Stream(url, {
    ...options,
    onError: (error) => {
      set({ error });
      onError?.(error);
    },
  });
  for (const type of new Set(types)) {
    stream.addEventListener(type, (event) => {
      if (!(event instanceof MessageEvent)) return; // an error of the connection
      const entry = { id: event.lastEventId, type, data: parse(event.data) };
      if (limit > 0) set({ events: [...followed.events, entry].slice(-limit) });
      onEvent?.(entry);
    });
  }
  stream.addEventListener("stream-reset", (event) => {
    // The log was replaced, so its oldest message comes next.
    if (parse(/** @type {MessageEvent} */ (event).data).reason !== "pruned") set({ events: [] });
  });
  stream.addEventListener("open", () => set({ error: null }));
  stream.addEventListener("stream-state", () => set({ state: stream.state }));
  changed(followed);
  return stream;
}
