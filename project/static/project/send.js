// The form for /chat/send. Without an upstream, each event is a plain line. With an upstream, the events are those of the
// upstream: JSON chunks with the text in `choices[0].delta.content`, an error as `{"error": …}`, and `[DONE]` at the end.
"use strict";

(() => {
  const form = document.getElementById("send");
  const sent = document.getElementById("sent");
  let asking = null;

  // Returns the text that an event adds to the answer.
  function textOf(data) {
    if (data === "[DONE]") return "";
    let chunk = null;
    try {
      chunk = JSON.parse(data);
    } catch {
      // a plain line
    }
    if (chunk?.error) throw new Error(chunk.error.message ?? "The answer failed.");
    if (Array.isArray(chunk?.choices)) {
      const delta = chunk.choices[0]?.delta;
      return (delta?.content ?? "") + (delta?.refusal ?? "");
    }
    return `${data}\n`;
  }

  // Yields the data of each event. An EventSource cannot send a POST.
  async function* events(body) {
    let rest = "";
    for await (const text of chunks(body.pipeThrough(new TextDecoderStream()))) {
      const blocks = (rest + text).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const fields = block.split("\n");
        if (fields.includes("event: stream-error")) throw new Error("The answer failed on the server.");
        const lines = fields.filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.replace(/^data: ?/, "")).join("\n");
      }
    }
  }

  async function* chunks(stream) {
    const reader = stream.getReader();
    for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
  }

  async function send(signal) {
    const response = await fetch(form.action, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRFToken": form.elements.csrfmiddlewaretoken.value },
      body: JSON.stringify({ msg: form.elements.msg.value }),
      signal,
    });
    if (!response.ok) {
      const body = await response.json().catch(() => null);
      throw new Error(body?.error?.message ?? `The server answered ${response.status}.`);
    }
    for await (const data of events(response.body)) sent.textContent += textOf(data);
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    asking?.abort(); // ends the previous answer
    const mine = (asking = new AbortController());
    sent.textContent = "";
    form.dataset.state = "sending";
    try {
      await send(mine.signal);
      if (mine === asking) form.dataset.state = "done";
    } catch (error) {
      if (mine !== asking) return;
      sent.textContent += `\n${error.message}`;
      form.dataset.state = "failed";
    }
  });
})();
