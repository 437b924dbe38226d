// A hook for React 18 and later: const { state, events, error } = useStream(url). See docs/guides/javascript.md.

import { useEffect, useRef, useState } from "react";
import { EMPTY, follow } from "./follow.js";

/**
 * Read a stream while the component is mounted. Without a URL, it reads nothing.
 * @param {string | null | undefined} url a new URL starts anew
 * @param {import("./follow.js").UseStreamOptions} [options] new callbacks are used at once; other changes start anew
 * @returns {import("./follow.js").FollowedStream}
 */
export function useStream(url, options = {}) {
  const latest = useRef(options);
  const [followed, setFollowed] = useState(EMPTY);
  useEffect(() => {
    latest.current = options;
  });
  const { types, limit, shared, silenceSeconds, withCredentials } = options;
  const key = JSON.stringify([types, limit, shared, silenceSeconds, withCredentials]);
  useEffect(() => {
    if (!url) return;
    const { token } = latest.current;
    const stream = follow(
      url,
      {
        ...latest.current,
        token: token && (() => /** @type {NonNullable<typeof token>} */ (latest.current.token)()),
        onEvent: (event) => latest.current.onEvent?.(event),
        onError: (error) => latest.current.onError?.(error),
        onReset: (event) => latest.current.onReset?.(event),
        onSnapshot: (event) => latest.current.onSnapshot?.(event),
      },
      setFollowed,
    );
    return () => stream.close();
  }, [url, key]);
  return followed;
}
