// A page with useStream in React, in strict mode, which mounts each component twice.
import { createElement, StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { useStream } from "django-sse-streams/react";

function News({ url, shared }) {
  const { state, events, error } = useStream(url, {
    shared,
    limit: 3,
    types: ["message", "alert"], // a new array each time
    onEvent: (event) => window.seen.push(event.id),
  });
  const items = events.map((event) => createElement("li", { key: event.id }, `${event.type} ${event.data.title ?? event.data}`));
  return createElement("section", { "data-state": state }, createElement("ul", null, items), error?.code);
}

function App() {
  const [url, setUrl] = useState("/events/?last_event_id=0");
  window.setUrl = setUrl;
  return url && createElement(News, { url, shared: true });
}

window.seen = [];
createRoot(document.querySelector("main")).render(createElement(StrictMode, null, createElement(App)));
