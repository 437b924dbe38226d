// The measured server with better-sse, on Node's HTTP server: node better_sse_server.js PORT
import { createServer } from "node:http";
import { setTimeout as sleep, setImmediate as nextTurn } from "node:timers/promises";
import { createChannel, createSession } from "better-sse";

const channel = createChannel();
const pad = "x".repeat(64);

async function burst(query) {
  const [n, rate] = [Number(query.get("n")), Number(query.get("rate"))];
  const start = performance.now();
  for (let i = 0; i < n; i++) {
    // hrtime is the clock of Python's time.monotonic_ns().
    channel.broadcast({ n: i, at: Number(process.hrtime.bigint()), pad }, "message");
    if (rate) await sleep(Math.max(0, start + ((i + 1) / rate) * 1000 - performance.now()));
    else await nextTurn();
  }
}

createServer(async (request, response) => {
  const url = new URL(request.url, "http://localhost");
  if (url.pathname === "/burst/") {
    await burst(url.searchParams);
    response.end("{}");
  } else {
    channel.register(await createSession(request, response));
  }
}).listen(Number(process.argv[2]), "127.0.0.1");
