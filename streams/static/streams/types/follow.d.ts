/**
 * Open a stream, and call `changed` with each new state.
 * @param {string} url
 * @param {UseStreamOptions} options
 * @param {(followed: FollowedStream) => void} changed
 */
export function follow(url: string, { types, limit, onEvent, onError, ...options }: UseStreamOptions, changed: (followed: FollowedStream) => void): Stream;
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
export const EMPTY: FollowedStream;
/**
 * `data` is parsed if it is JSON, and text otherwise
 */
export type StreamEvent = {
    id: string;
    type: string;
    data: any;
};
export type StreamError = import("./streams.js").StreamError;
export type FollowedStream = {
    state: "connecting" | "open" | "closed";
    /**
     * the newest last
     */
    events: readonly StreamEvent[];
    /**
     * why the stream is not open
     */
    error: StreamError | null;
};
export type FollowOptions = {
    /**
     * the event types; `["message"]` by default
     */
    types?: readonly string[] | undefined;
    /**
     * how many events to keep; 100 by default
     */
    limit?: number | undefined;
    onEvent?: ((event: StreamEvent) => void) | undefined;
};
export type UseStreamOptions = import("./streams.js").StreamOptions & FollowOptions;
import { Stream } from "./streams.js";
