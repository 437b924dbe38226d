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
    static CONNECTING: number;
    static OPEN: number;
    static CLOSED: number;
    /** @param {string | URL} url @param {StreamOptions} [options] */
    constructor(url: string | URL, options?: StreamOptions);
    /** @type {((event: any) => void) | null} */
    onopen: ((event: any) => void) | null;
    /** @type {((event: MessageEvent) => void) | null} */
    onmessage: ((event: MessageEvent) => void) | null;
    /** @type {((event: any) => void) | null} */
    onerror: ((event: any) => void) | null;
    readyState: number;
    lastEventId: string;
    url: string;
    withCredentials: boolean;
    get state(): "closed" | "connecting" | "open";
    close(): void;
    #private;
}
export type StreamError = {
    status: number;
    code: string;
    message: string;
};
export type StreamOptions = {
    /**
     * by all tabs; a text names the user
     */
    shared?: string | boolean | undefined;
    /**
     * returns a new token
     */
    token?: (() => string | Promise<string>) | undefined;
    headers?: HeadersInit | undefined;
    withCredentials?: boolean | undefined;
    /**
     * until it reconnects
     */
    silenceSeconds?: number | undefined;
    onError?: ((error: StreamError) => void) | undefined;
    onReset?: ((event: MessageEvent) => void) | undefined;
    onSnapshot?: ((event: MessageEvent) => void) | undefined;
};
