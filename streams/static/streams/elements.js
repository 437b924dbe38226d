// <stream-list> and <stream-value> show a stream without code. See docs/guides/javascript.md.
// Data is always shown as text, never as HTML.

import { Stream } from "./streams.js";

// The elements of a page share one connection for each URL. With the attribute `shared`, so do those of all tabs.
const PAGE = `page ${Math.random()}`;

/** @param {string} text */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text; // published as text
  }
}

/**
 * Return a part of the data as text.
 * @param {any} data
 * @param {string} path such as "author.name"; the empty path is all of the data
 */
function textAt(data, path) {
  for (const key of path ? path.split(".") : []) {
    data = typeof data === "object" && data && Object.hasOwn(data, key) ? data[key] : "";
  }
  return typeof data === "object" ? JSON.stringify(data) : String(data);
}

class StreamElement extends HTMLElement {
  static observedAttributes = ["src", "event", "shared"];

  /** @type {Stream | undefined} */
  stream;
  #connected = false;
  #cursor = { source: "", id: "" };

  connectedCallback() {
    this.#connected = true;
    this.#open();
  }

  disconnectedCallback() {
    this.#connected = false;
    this.#close();
  }

  attributeChangedCallback() {
    if (this.#connected) this.#open();
  }

  #close() {
    if (this.stream) this.#cursor.id = this.stream.lastEventId;
    this.stream?.close();
    this.stream = undefined;
  }

  #open() {
    this.#close();
    const source = this.getAttribute("src");
    if (!source) return;
    const url = new URL(source, document.baseURI);
    // An element that was moved in the document continues.
    if (source === this.#cursor.source && this.#cursor.id) url.searchParams.set("last_event_id", this.#cursor.id);
    this.#cursor.source = source;
    const shared = this.hasAttribute("shared") ? this.getAttribute("shared") || true : PAGE;
    const stream = (this.stream = new Stream(url, { shared }));
    const show = () => this.stream === stream && this.setAttribute("state", stream.state);
    stream.addEventListener("stream-state", show);
    show();
    for (const type of new Set(this.getAttribute("event")?.split(/\s+/) ?? ["message"])) {
      stream.addEventListener(type, (event) => {
        if (event instanceof MessageEvent) this.receive(parse(event.data), event.lastEventId, event.data);
      });
    }
    for (const type of ["stream-snapshot", "stream-reset", "stream-error"]) {
      stream.addEventListener(type, (event) => {
        const { data } = /** @type {MessageEvent} */ (event);
        const detail = parse(data);
        if (type === "stream-snapshot") this.snapshot(detail, data);
        if (type === "stream-reset" && detail.reason !== "pruned") this.clear();
        this.dispatchEvent(new CustomEvent(type, { detail, bubbles: true }));
      });
    }
  }

  /**
   * @param {any} data from JSON, or a text
   * @param {string} id
   * @param {string} text all of the data, as it was published
   */
  receive(data, id, text) {}

  /** @param {any} data @param {string} text */
  snapshot(data, text) {
    this.receive(data, "", text);
  }

  /** The log was replaced, so its oldest message comes next. */
  clear() {}
}

/**
 * Adds a copy of its template for each event, in front of the others, or with the attribute `append` behind them.
 *
 *     <stream-list src="{% stream_url 'news' %}" limit="20">
 *       <ul><template><li><b data-field="title"></b></li></template></ul>
 *     </stream-list>
 *
 * The copies are beside the template. `data-field` names the part of the data that an element shows.
 */
class StreamList extends StreamElement {
  connectedCallback() {
    if (!this.hasAttribute("role")) this.setAttribute("role", "log"); // screen readers read additions
    super.connectedCallback();
  }

  get template() {
    return /** @type {HTMLTemplateElement | null} */ (this.querySelector("template"));
  }

  get items() {
    const { template } = this;
    return [...(template?.parentElement?.children ?? [])].filter((child) => child !== template);
  }

  /** @param {any} data @param {string} id @param {string} text */
  receive(data, id, text) {
    const { template, items } = this;
    const first = template?.content.firstElementChild;
    // The page can have a message already, because it was rendered after the cursor was read.
    if (!first || (id && items.some((item) => item instanceof HTMLElement && item.dataset.id === id))) return;
    const item = /** @type {HTMLElement} */ (document.importNode(first, true));
    if (id) item.dataset.id = id;
    for (const element of [item, .../** @type {NodeListOf<HTMLElement>} */ (item.querySelectorAll("[data-field]"))]) {
      const { field } = element.dataset;
      if (field !== undefined) element.textContent = field ? textAt(data, field) : text;
    }
    const append = this.hasAttribute("append");
    template.parentElement?.[append ? "append" : "prepend"](item);
    const surplus = items.length + 1 - Number(this.getAttribute("limit") || Infinity);
    for (let n = 0; n < surplus; n++) items[append ? n : items.length - 1 - n]?.remove();
  }

  /** A snapshot that is a list replaces the items. @param {any} data */
  snapshot(data) {
    if (!Array.isArray(data)) return;
    this.clear();
    for (const entry of data) this.receive(entry, "", textAt(entry, ""));
  }

  clear() {
    for (const item of this.items) item.remove();
  }
}

/** Shows a part of the newest event: `<stream-value src="{% stream_url 'score' %}" field="home">0</stream-value>`. */
class StreamValue extends StreamElement {
  connectedCallback() {
    if (!this.hasAttribute("role")) this.setAttribute("role", "status");
    super.connectedCallback();
  }

  /** @param {any} data @param {string} id @param {string} text */
  receive(data, id, text) {
    const field = this.getAttribute("field");
    this.textContent = field ? textAt(data, field) : text;
  }
}

// A page can load this module twice, for example under a hashed and under a plain name.
for (const [name, element] of Object.entries({ "stream-list": StreamList, "stream-value": StreamValue })) {
  if (!customElements.get(name)) customElements.define(name, element);
}

export { StreamList, StreamValue };
