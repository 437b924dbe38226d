// Functions that the scripts of the admin pages share. Untrusted text is always shown as text, never as HTML.
"use strict";

const Streams = (() => {
  const holder = document.getElementById("streams-texts");
  const texts = holder ? JSON.parse(holder.textContent) : {};

  // Return a text in the user's language: text("hello", {name: "Ada"}) fills in {name}.
  function text(key, values = {}) {
    return (texts[key] ?? key).replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
  }

  // The same rule as in the template filters `visible` and `shorten`: replace invisible characters by their codes, unless
  // they belong to an emoji or to the spelling of a word. Older browsers do not support lookbehind.
  const EMOJI =
    "[\\xa9\\xae\\u203c\\u2049\\u2122\\u2139\\u2190-\\u21ff\\u2300-\\u23ff\\u24c2\\u25a0-\\u27bf\\u2900-\\u297f\\u2b00-\\u2bff\\u3030\\u303d\\u3297\\u3299\\u{1f000}-\\u{1faff}]";
  const CURSIVE =
    "\\u0620-\\u065f\\u066e-\\u06d3\\u06d5-\\u06dc\\u06df-\\u06e8\\u06ea-\\u06ef\\u06fa-\\u06ff\\u0710-\\u077f\\u07ca-\\u07f5\\u0840-\\u085b\\u0860-\\u086a\\u0870-\\u0887\\u08a0-\\u08e1\\u08e3-\\u08ff\\u1820-\\u18aa";
  const INDIC =
    "\\u0900-\\u0963\\u0970-\\u09e3\\u09f0-\\u0a63\\u0a70-\\u0ae3\\u0af0-\\u0b63\\u0b70-\\u0be3\\u0bf0-\\u0c63\\u0c70-\\u0ce3\\u0cf0-\\u0d63\\u0d70-\\u0de3\\u0df2-\\u0df3\\u1000-\\u103f\\u1050-\\u108f\\u109a-\\u109d\\u1780-\\u17b3\\u17b6-\\u17d3";
  const IN_CONTEXT = [
    "\\u{1f3f4}[\\u{e0061}-\\u{e007a}]{2}[\\u{e0030}-\\u{e0039}\\u{e0061}-\\u{e007a}]{1,4}\\u{e007f}",
    "[0-9#*]\\ufe0f\\u20e3",
    `${EMOJI}[\\ufe0e\\ufe0f]?(?:\\u200d${EMOJI}[\\ufe0e\\ufe0f]?|[\\u{1f3fb}-\\u{1f3ff}]){0,9}`,
    "[\\u094d\\u09cd\\u0a4d\\u0acd\\u0b4d\\u0bcd\\u0c4d\\u0ccd\\u0d4d\\u0dca\\u1039\\u103a\\u17d2][\\u200c\\u200d]",
    `[${CURSIVE}]\\u200d`,
    `[${CURSIVE}${INDIC}][\\u200c\\u200d](?=[${CURSIVE}${INDIC}])`,
    "[\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff\\u{20000}-\\u{323af}][\\ufe00-\\ufe02\\u{e0100}-\\u{e01ef}]",
    "[\\u1820-\\u18aa][\\u180b-\\u180f]",
    "[\\u1000-\\u109f\\u2200-\\u22ff\\u2a00-\\u2aff]\\ufe00",
  ];
  const INVISIBLE =
    "[\\0-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u00ad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff0-\\ufffb\\u{1bca0}-\\u{1bca3}\\u{1d173}-\\u{1d17a}\\u{e0000}-\\u{e0fff}]";
  const PARTS = new RegExp(`${IN_CONTEXT.join("|")}|(${INVISIBLE})`, "gu");

  // Show untrusted text in an element, with the codes of invisible characters.
  function show(element, written) {
    const parts = [];
    let start = 0;
    for (const match of written.matchAll(PARTS)) {
      if (match[1] === undefined) continue;
      const mark = document.createElement("span");
      mark.className = "invisible";
      mark.textContent = `U+${match[1].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
      parts.push(written.slice(start, match.index), mark);
      start = match.index + match[0].length;
    }
    element.replaceChildren(...parts, written.slice(start));
  }

  // Return at most the first `limit` UTF-16 units of a text, without cutting an emoji in two.
  function shorten(written, limit) {
    if (written.length <= limit) return written;
    let end = /[\ud800-\udbff]/.test(written[limit - 1]) ? limit - 1 : limit;
    for (const match of written.matchAll(PARTS)) {
      if (match.index + match[0].length <= limit) continue;
      end = Math.min(match.index, end);
      break;
    }
    return written.slice(0, end).replace(/[\u200c\u200d]+$/, "");
  }

  // Like the template filter `pretty`: indent JSON without changing how numbers are written. Return other text unchanged.
  function pretty(written) {
    if (!/^\s*[{[]/.test(written)) return written;
    try {
      JSON.parse(written);
    } catch {
      return written;
    }
    const line = (depth) => `\n${"  ".repeat(Math.min(depth, 40))}`;
    let out = "";
    let depth = 0;
    let before = "";
    for (const [token] of written.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\]:,]|[^\s{}[\]:,"]+/g)) {
      if (token === "}" || token === "]") {
        depth -= 1;
        if (before !== "{" && before !== "[") out += line(depth);
      } else if (before === "{" || before === "[" || before === ",") out += line(depth);
      out += token === ":" ? ": " : token;
      if (token === "{" || token === "[") depth += 1;
      before = token;
    }
    return out;
  }

  // Request JSON. Resolves to {ok, status, data}. In case of any error, data.errors is a list of sentences.
  async function fetchJSON(url, options = {}) {
    try {
      const response = await fetch(url, { credentials: "same-origin", headers: { Accept: "application/json" }, ...options });
      const isJson = (response.headers.get("Content-Type") ?? "").startsWith("application/json");
      const data = isJson && !response.redirected ? await response.json() : null;
      if (data) return { ok: response.ok, status: response.status, data };
      return { ok: false, status: response.status, data: { errors: [text("bad-response")] } };
    } catch {
      return { ok: false, status: 0, data: { errors: [text("no-connection")] } };
    }
  }

  // Call an async function now and at intervals, while the page is visible. Calls never overlap.
  function poll(milliseconds, work) {
    let isBusy = false;
    const run = async () => {
      if (isBusy || document.hidden) return;
      isBusy = true;
      try {
        await work();
      } finally {
        isBusy = false;
      }
    };
    run();
    setInterval(run, milliseconds);
    document.addEventListener("visibilitychange", run);
  }

  // Set the text of an element only if it differs, because a screen reader announces each change of a live region.
  function setText(element, words) {
    if (element.textContent !== words) element.textContent = words;
  }

  // Draw numbers as bars in an <svg>, the newest at the right. `size` is the number of bars that fit.
  function drawBars(svg, values, size) {
    const maximum = Math.max(1, ...values);
    svg.setAttribute("viewBox", `0 0 ${size} 100`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.replaceChildren(
      ...values.slice(-size).map((value, index, shown) => {
        const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
        const height = (value / maximum) * 95;
        rect.setAttribute("x", String(size - shown.length + index + 0.1));
        rect.setAttribute("y", String(100 - height));
        rect.setAttribute("width", "0.8");
        rect.setAttribute("height", String(height));
        return rect;
      }),
    );
  }

  return { text, show, setText, shorten, pretty, fetchJSON, poll, drawBars };
})();
