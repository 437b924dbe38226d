/** @import { MaybeRefOrGetter } from "vue" */
/**
 * Read a stream while the component is mounted. Without a URL, it reads nothing.
 * @param {MaybeRefOrGetter<string | null | undefined>} url a new URL starts anew
 * @param {import("./follow.js").UseStreamOptions} [options]
 */
export function useStream(url: MaybeRefOrGetter<string | null | undefined>, options?: import("./follow.js").UseStreamOptions): {
    state: import("vue").ComputedRef<"closed" | "connecting" | "open">;
    events: import("vue").ComputedRef<readonly import("./follow.js").StreamEvent[]>;
    error: import("vue").ComputedRef<import("./streams.js").StreamError | null>;
    close: () => void | undefined;
};
import type { MaybeRefOrGetter } from "vue";
