/**
 * Read a stream while the component is mounted. Without a URL, it reads nothing.
 * @param {import("vue").MaybeRefOrGetter<string | null | undefined>} url a new URL starts anew
 * @param {import("./follow.js").UseStreamOptions} [options]
 */
export function useStream(url: import("vue").MaybeRefOrGetter<string | null | undefined>, options?: import("./follow.js").UseStreamOptions): {
    state: import("vue").ComputedRef<"closed" | "connecting" | "open">;
    events: import("vue").ComputedRef<readonly import("./follow.js").StreamEvent[]>;
    error: import("vue").ComputedRef<import("./streams.js").StreamError | null>;
    close: () => void | undefined;
};
