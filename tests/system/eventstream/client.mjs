// The client of django-eventstream's README, with the packages of its npm. It prints each event as a line of JSON.
import { createRequire } from "node:module";

const [url, packages] = process.argv.slice(2);
const require = createRequire(`${packages}/`);
const ReconnectingEventSource = require("reconnecting-eventsource").default;
const { EventSource } = require("eventsource");

const es = new ReconnectingEventSource(url, { eventSourceClass: EventSource, max_retry_time: 300 });
for (const type of ["message", "stream-reset", "stream-error", "stream-open"]) {
    es.addEventListener(type, (e) => console.log(JSON.stringify([type, e.data, e.lastEventId])), false);
}
