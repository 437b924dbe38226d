export class Stream extends EventTarget {
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
