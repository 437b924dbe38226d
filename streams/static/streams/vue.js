// A composable for Vue 3: const { state, events, error } = useStream(url). See docs/guides/javascript.md.

import { computed, onScopeDispose, shallowRef, toValue, watch } from "vue";
import { EMPTY, follow } from "./follow.js";

// As a tag, because Django's storage for hashed modules looks for the file of each import in parentheses.
/** @import { MaybeRefOrGetter } from "vue" */

/**
 * Read a stream while the component is mounted. Without a URL, it reads nothing.
 * @param {MaybeRefOrGetter<string | null | undefined>} url a new URL starts anew
 * @param {import("./follow.js").UseStreamOptions} [options]
 */
export function useStream(url, options = {}) {
  const followed = shallowRef(EMPTY);
  /** @type {import("./streams.js").Stream | undefined} */
  let stream;
  const close = () => stream?.close();
  /** @param {string | null | undefined} value */
  const open = (value) => {
    close();
    stream = value ? follow(value, options, (next) => (followed.value = next)) : undefined;
  };
  // A server that renders the page opens no stream.
  if (typeof document !== "undefined") watch(() => toValue(url), open, { immediate: true });
  onScopeDispose(close);
  return {
    state: computed(() => followed.value.state),
    events: computed(() => followed.value.events),
    error: computed(() => followed.value.error),
    close,
  };
}
