"""A Flask application that serves pages and, in the same process, accepts flows and shows them.

    python examples/flask_app.py [HTTP_PORT [FLOW_PORT]]          8080 and 8000 if not given

It needs pyf.station[embed], flask and waitress. Open the page it names, then run examples/client.py
in another terminal, a few times. Stop it with Ctrl-C.
"""

import sys
import threading
import time
from collections import deque
from contextlib import closing

import waitress
from flask import Flask, jsonify

from pyf.station import FlowServer, embed

app = Flask(__name__)
lock = threading.Lock()  # handlers and pages run in different threads
arrived = deque(maxlen=20)


def collect(flow, client):
    """Keep count of a flow for the page; every 1000 packets, tell its client."""
    entry = {"at": time.strftime("%H:%M:%S"), "from": client.peer.host, "packets": 0}
    entry |= {"state": "arriving", "header": str(flow.header), "last": ""}
    with lock:
        arrived.appendleft(entry)
    try:
        for count, packet in enumerate(flow):  # the first one is the header
            with lock:
                entry.update(packets=count, last=str(packet)[:200])
            if count and not count % 1000:
                client.message({"type": "info", "message": f"{count} packets are on the page"})
    except Exception as error:
        with lock:
            entry.update(state="failed", last=f"{type(error).__name__}: {error}")
        raise
    with lock:
        entry["state"] = "complete"
    return f"{entry['packets']} packets"


@app.get("/")
def page():
    return PAGE


@app.get("/arrived")
def show_arrived():
    with lock:
        return jsonify(list(map(dict, arrived)))


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Flows that have arrived</title>
<style>
  :root { color-scheme: light dark; --line: #8884; --soft: #7d8590; --blue: #2f81f7;
          --good: #2da44e; --bad: #e5534b }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 3rem auto; padding: 1rem }
  h1 { font-size: 1.6rem; margin: 0 }
  .soft { color: var(--soft); margin: .2rem 0 2rem }
  article { border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1.1rem;
            margin: .8rem 0; border-left: .35rem solid var(--blue) }
  article.complete { border-left-color: var(--good) }
  article.failed { border-left-color: var(--bad) }
  .row { display: flex; gap: 1rem; align-items: baseline }
  .count { font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums }
  .state { color: var(--blue) }
  .complete .state { color: var(--good) }
  .failed .state { color: var(--bad) }
  .when { margin-left: auto; color: var(--soft); font-size: .9rem }
  code { display: block; font: .85rem/1.6 ui-monospace, monospace; overflow-wrap: anywhere }
  code::before { color: var(--soft) }
  .header::before { content: "header  "; white-space: pre }
  .last::before { content: "last    "; white-space: pre }
</style>
<h1>Flows that have arrived</h1>
<p class="soft" id="status">None so far. Run examples/client.py.</p>
<main></main>
<template><article>
  <div class="row">
    <span class="count"></span><span class="state"></span><span class="when"></span>
  </div>
  <code class="header"></code><code class="last"></code>
</article></template>
<script>
  const template = document.querySelector("template"), main = document.querySelector("main");
  function draw(flow) {
    const article = template.content.cloneNode(true).firstElementChild;
    const put = (name, text) => article.querySelector("." + name).textContent = text;
    article.className = flow.state;
    put("count", flow.packets.toLocaleString("en") + " packets");
    put("state", flow.state);
    put("when", flow.at + " from " + flow.from);
    put("header", flow.header);
    put("last", flow.last);
    return article;
  }
  async function refresh() {
    const status = document.querySelector("#status");
    try {
      const flows = await (await fetch("/arrived")).json();
      main.replaceChildren(...flows.map(draw));
      if (flows.length) status.textContent = "The latest " + flows.length + ", newest first.";
    } catch (error) {
      status.textContent = "The server does not answer.";
    }
    setTimeout(refresh, 500);
  }
  refresh();
</script>
</html>
"""

if __name__ == "__main__":
    ports = [int(argument) for argument in sys.argv[1:]] + [8080, 8000][len(sys.argv) - 1 :]
    server, endpoint = FlowServer(collect), f"tcp:{ports[1]}:interface=127.0.0.1"
    http = waitress.create_server(app, host="127.0.0.1", port=ports[0])
    with closing(http), embed.serve(server, endpoint) as station:
        print(f"Flows arrive on port {station.address.port}")
        print(f"The page is http://127.0.0.1:{http.effective_port}/", flush=True)
        http.run()  # until Ctrl-C
