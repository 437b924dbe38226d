/**
 * Adds a copy of its template for each event, in front of the others, or with the attribute `append` behind them.
 *
 *     <stream-list src="{% stream_url 'news' %}" limit="20">
 *       <ul><template><li><b data-field="title"></b></li></template></ul>
 *     </stream-list>
 *
 * The copies are beside the template. `data-field` names the part of the data that an element shows.
 */
export class StreamList extends StreamElement {
    get template(): HTMLTemplateElement | null;
    get items(): Element[];
    /** A snapshot that is a list replaces the items. @param {any} data */
    snapshot(data: any): void;
}
/** Shows a part of the newest event: `<stream-value src="{% stream_url 'score' %}" field="home">0</stream-value>`. */
export class StreamValue extends StreamElement {
}
declare class StreamElement extends HTMLElement {
    static observedAttributes: string[];
    /** @type {Stream | undefined} */
    stream: Stream | undefined;
    connectedCallback(): void;
    disconnectedCallback(): void;
    attributeChangedCallback(): void;
    /**
     * @param {any} data from JSON, or a text
     * @param {string} id
     * @param {string} text all of the data, as it was published
     */
    receive(data: any, id: string, text: string): void;
    /** @param {any} data @param {string} text */
    snapshot(data: any, text: string): void;
    /** The log was replaced, so its oldest message comes next. */
    clear(): void;
    #private;
}
import { Stream } from "./streams.js";
export {};
