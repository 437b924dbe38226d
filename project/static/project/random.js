// The page of random numbers: shows the state of the connection and the newest number.
"use strict";

const section = document.getElementById("random");
const state = document.getElementById("state");
const number = document.getElementById("number");

function show(name, words) {
  state.dataset.state = name;
  document.getElementById("state-word").textContent = words;
}

show("connecting", "Connecting …");
const source = new EventSource(section.dataset.stream);
source.onopen = () => show("live", "Live");
source.onmessage = (event) => {
  number.textContent = event.data;
};
source.onerror = () => {
  if (source.readyState === EventSource.CLOSED) show("closed", "Closed: the server refused the stream. Load the page again to try again.");
  else show("reconnecting", "Reconnecting …");
};
