// What the scripts of our admin pages share. What others have written is only ever shown as text.
"use strict";

const Streams = (() => {
  const holder = document.getElementById("streams-texts");
  const texts = holder ? JSON.parse(holder.textContent) : {};

  // A text of the page's, in the user's language: text("hello", {name: "Ada"}) fills {name}.
  function text(key, values = {}) {
    return (texts[key] ?? key).replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
  }

  // As the template filter `visible`: what cannot be seen, or turns around what follows, is written out.
  const INVISIBLE =
    /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb]|[\u{e0000}-\u{e0fff}]/gu;

  function show(element, written) {
    const parts = [];
    let start = 0;
    for (const match of written.matchAll(INVISIBLE)) {
      const mark = document.createElement("span");
      mark.className = "invisible";
      mark.textContent = `U+${match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
      parts.push(written.slice(start, match.index), mark);
      start = match.index + match[0].length;
    }
    element.replaceChildren(...parts, written.slice(start));
  }

  // As the template filter `pretty`: JSON a member a line, numbers as they are written; anything else as it is.
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

  // Ask the server; resolves to {ok, status, data}. Problems of any kind come as data.errors, a list of sentences.
  async function ask(url, options = {}) {
    try {
      const response = await fetch(url, { credentials: "same-origin", headers: { Accept: "application/json" }, ...options });
      const isJson = (response.headers.get("Content-Type") ?? "").startsWith("application/json");
      const data = isJson && !response.redirected ? await response.json() : null;
      if (data) return { ok: response.ok, status: response.status, data };
      return { ok: false, status: response.status, data: { errors: [text("no-answer")] } };
    } catch {
      return { ok: false, status: 0, data: { errors: [text("no-connection")] } };
    }
  }

  // Do something now and every so often, as long as the page is looked at.
  function every(milliseconds, work) {
    let busy = false;
    const turn = async () => {
      if (busy || document.hidden) return;
      busy = true;
      try {
        await work();
      } finally {
        busy = false;
      }
    };
    turn();
    setInterval(turn, milliseconds);
    document.addEventListener("visibilitychange", turn);
  }

  // Draw numbers as bars into an <svg>, the newest at the right; `room` is how many fit.
  function bars(svg, values, room) {
    const most = Math.max(1, ...values);
    svg.setAttribute("viewBox", `0 0 ${room} 100`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.replaceChildren(
      ...values.slice(-room).map((value, index, shown) => {
        const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
        const height = (value / most) * 95;
        rect.setAttribute("x", String(room - shown.length + index + 0.1));
        rect.setAttribute("y", String(100 - height));
        rect.setAttribute("width", "0.8");
        rect.setAttribute("height", String(height));
        return rect;
      }),
    );
  }

  return { text, show, pretty, ask, every, bars };
})();
