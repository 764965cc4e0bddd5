"""The canary of a pod: asks Triton beside it for a known answer every second, and tells kubelet and Prometheus of it.

A health address answers 200 while every inference fails; so the probes ask here. Python's own library is all it needs:
python3 canary.py FOLDER ADDRESS METRICS PORT, with the folder that `engineworks ship` left, Triton's two addresses as
HOST:PORT, and the port to answer on.

    /started  200 once a right answer came
    /ready    200 while the last answer was right, or Triton was only busy
    /live     200 unless for LIVE_S none was right and Triton answered nobody else
    /metrics  what flows/metrics.py says of a canary, by the same names
"""

import http.client
import json
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PERIOD_S = 1.0
DEADLINE_S = 5.0  # for an answer, as the supervisor's
LIVE_S = 30.0
SUCCESS = "nv_inference_request_success"


class Canary:
    """What is asked and has to come back, and what came when; one thread asks."""

    def __init__(self, folder, address, metrics):
        """Read what `engineworks ship` left."""
        self.facts = json.loads((Path(folder) / "canary.json").read_text())
        self.body = (Path(folder) / "request").read_bytes()
        self.address, self.metrics = address, metrics
        self.since, self.right, self.well, self.latency = time.monotonic(), None, None, None
        self.complaint = "not asked yet"

    def watch(self):
        """Ask for ever; say each change on standard output."""
        while True:
            before, self.complaint = self.complaint, self.look()
            if self.complaint != before:
                print(self.complaint or "right", flush=True)
            time.sleep(PERIOD_S)

    def look(self):
        """Ask once, note how it went; return what is wrong, empty where nothing is or Triton is only busy."""
        begun = time.monotonic()
        try:
            given = self.ask()
        except TimeoutError:
            if not self.busy():
                return f"no answer within {DEADLINE_S:g} s"
            self.well = time.monotonic()
            return ""
        except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"[:300]
        if not self.is_right(given):
            return f"answered {given!r}; right is {' or '.join(self.facts['right'])}"
        self.right = self.well = time.monotonic()
        self.latency = self.right - begun
        return ""

    def ask(self):
        """Return the best class of the golden sample: SCORE:INDEX:LABEL as Triton writes it."""
        connection = http.client.HTTPConnection(self.address, timeout=DEADLINE_S)
        try:
            size = str(self.facts["header_bytes"])
            path = f"/v2/models/{self.facts['pipeline']}/infer"
            connection.request("POST", path, self.body, {"Inference-Header-Content-Length": size})
            answer = connection.getresponse()
            content = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(f"{answer.status} {content.get('error', '')}")
        return content["outputs"][0]["data"][0]

    def is_right(self, given):
        """Tell whether SCORE:CLASS is the known class, with a number for a score."""
        score, _, which = given.partition(":")
        return (which or score) in self.facts["right"] and "nan" not in score.lower()

    def busy(self):
        """Tell whether Triton answers others while ours waits; one answer may be that to ours, late."""
        before = self.answered()
        time.sleep(PERIOD_S / 2)
        now = self.answered()
        return before is not None and now is not None and now > before + 1

    def answered(self):
        """Return how many requests our engine has answered; None where Triton does not say."""
        connection = http.client.HTTPConnection(self.metrics, timeout=DEADLINE_S)
        try:
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        ours = f'model="{self.facts["pipeline"]}_engine'  # the server of this project adds a version
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(SUCCESS + "{") and ours in line)

    def page(self, path):
        """Return status and text of an address."""
        now = time.monotonic()
        if path == "/metrics":
            return 200, self.measured(now)
        is_well = {
            "/started": self.right is not None,
            "/ready": self.right is not None and not self.complaint,
            "/live": now - (self.well or self.since) < LIVE_S,
        }
        if path not in is_well:
            return 404, "there are /started, /ready, /live and /metrics\n"
        return (200 if is_well[path] else 503), f"{self.complaint or 'right'}\n"

    def measured(self, now):
        """Return our metrics as Prometheus reads them."""
        named = {name: self.facts[name] for name in ("pipeline", "engine", "sha256")} | {"version": "1"}
        pipeline = f'{{pipeline="{self.facts["pipeline"]}"}}'
        info = ",".join(f'{name}="{value}"' for name, value in named.items())
        found = [
            ("age_seconds", "Seconds since the last right answer to a canary", self.right and now - self.right),
            ("latency_seconds", "How long the last right answer to a canary took", self.latency),
        ]
        lines = ["# HELP engineworks_champion_info What is live", "# TYPE engineworks_champion_info gauge"]
        lines.append(f"engineworks_champion_info{{{info}}} 1")
        for name, words, value in found:
            if value is not None:
                name = f"engineworks_canary_{name}"
                lines += [f"# HELP {name} {words}", f"# TYPE {name} gauge", f"{name}{pipeline} {value:.6f}"]
        return "\n".join(lines) + "\n"


def serve(canary, port):
    """Answer on a port of every address from now on, in threads beside the caller."""

    class Answer(BaseHTTPRequestHandler):
        """One request."""

        timeout = DEADLINE_S

        def do_GET(self):
            """Answer it."""
            status, text = canary.page(self.path)
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            """Say nothing of each request."""

    server = ThreadingHTTPServer(("", port), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # a container's first process ends by no signal else
    folder, address, metrics, port = sys.argv[1:]
    watched = Canary(folder, address, metrics)
    serve(watched, int(port))
    watched.watch()
