// The page of random numbers: shows the state of the connection and the newest number.
import { Stream } from "../streams/streams.js";

const section = document.getElementById("random");
const state = document.getElementById("state");
const number = document.getElementById("number");

function show(name, words) {
  state.dataset.state = name;
  document.getElementById("state-word").textContent = words;
}

show("connecting", "Connecting …");
const stream = new Stream(section.dataset.stream);
stream.onopen = () => show("live", "Live");
stream.onerror = () => show("reconnecting", "Reconnecting …");
stream.onmessage = (event) => {
  number.textContent = event.data;
};
