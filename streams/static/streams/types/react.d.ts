/**
 * Read a stream while the component is mounted. Without a URL, it reads nothing.
 * @param {string | null | undefined} url a new URL starts anew
 * @param {import("./follow.js").UseStreamOptions} [options] new callbacks are used at once; other changes start anew
 * @returns {import("./follow.js").FollowedStream}
 */
export function useStream(url: string | null | undefined, options?: import("./follow.js").UseStreamOptions): import("./follow.js").FollowedStream;
