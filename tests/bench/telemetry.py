#!/usr/bin/env python3
"""What it costs a request to be seen: the CPU of sidecars with access logs, traces of 1 % and a running tap, each beside
that of one that only counts; and Envoy's, where it is at hand, beside its own.

    tests/bench/telemetry.py [--binary MESHCTL] [--envoy ENVOY] [--rounds 9] [--duration 2] [--only NAME;NAME]

Needs nginx (the application) and wrk (the caller). A control plane and a sidecar for each row run on loopback; rounds are
interleaved, each in another order, and the medians of what a row took of the same round's first row are compared. The
whole process is counted, so the sending of numbers, lines and spans is too.

Counting cannot be switched off. What it takes, tests/bench/metrics.sh counts in instructions.
"""

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from stand import Stand, service

NET = "127.78.0."
NO_TRACES = "tracing: [{disableSpanReporting: true}]"
# Of each sidecar: its Telemetry, its flags, and those of a tap on its service.
SIDES = {
    "metrics": (NO_TRACES, [], None),
    "metrics, traces of 1 % (as it comes)": ("", [], None),
    "metrics, log as text": (NO_TRACES, ["--access-log", "text"], None),
    "metrics, log as JSON": (NO_TRACES, ["--access-log", "json"], None),
    "metrics, a tap that fits nothing": (NO_TRACES, [], ["--path", "/nowhere"]),
    "metrics, a tap of 100 calls a second": (NO_TRACES, [], []),
}
# Of each Envoy: what its connection manager has more.
ENVOYS = {
    "Envoy: metrics": "",
    "Envoy: metrics, log as text": """
          access_log:
          - name: envoy.access_loggers.file
            typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: %(dir)s/envoy-access.log}""",
    "Envoy: metrics, traces of 1 %": """
          tracing:
            random_sampling: {value: 1}
            provider:
              name: envoy.tracers.zipkin
              typed_config:
                "@type": type.googleapis.com/envoy.config.trace.v3.ZipkinConfig
                collector_cluster: spans
                collector_endpoint: /spans
                collector_endpoint_version: HTTP_JSON""",
}
ENVOY = """admin: {address: {socket_address: {address: %(host)s, port_value: 9901}}}
static_resources:
  listeners:
  - address: {socket_address: {address: %(host)s, port_value: 9080}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: "/"}, route: {cluster: up}}]}]%(more)s
  clusters:
  - name: up
    load_assignment: &app
      cluster_name: up
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %(app)s, port_value: 9080}}}}]}]
  - name: spans
    load_assignment:
      cluster_name: spans
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %(app)s, port_value: 9080}}}}]}]
"""
NGINX = """daemon off; worker_processes 1; pid %(dir)s/nginx.pid; error_log stderr crit;
events { worker_connections 1024; }
http { access_log off; keepalive_requests 100000000;
  server { listen %(at)s; location / { return 200 "ok"; } location /spans { client_max_body_size 0; return 202; } } }
"""


def cpu(pid):
    """Nanoseconds on a processor, of all threads."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int(Path(thread, "schedstat").read_text().split()[0]) for thread in threads)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--binary", default=os.environ.get("MESHCTL_BIN", "target/release/meshctl"))
    p.add_argument("--envoy", default=os.environ.get("ENVOY_BIN") or shutil.which("envoy"))
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--duration", type=int, default=2, help="seconds")
    p.add_argument("--connections", type=int, default=16)
    p.add_argument("--only", help="rows, by their beginnings, with a semicolon between; the first is always there")
    p.add_argument("--json", help="write what was measured here")
    a = p.parse_args()
    first = (next(iter(SIDES)), next(iter(ENVOYS)))
    wanted = lambda name: not a.only or name in first or any(name.startswith(part) for part in a.only.split(";"))
    with Stand(a.binary, NET) as stand:
        home = stand.home
        stand.mesh(NGINX)
        rows = []
        for index, (title, (says, flags, tap)) in enumerate(SIDES.items()):
            if not wanted(title):
                continue
            name, host = f"app{index}", f"{NET}{10 + index}"
            made = service(name)
            if says:
                made += f"---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {name}}}\nspec:\n"
                made += f"  selector: {{matchLabels: {{app: {name}}}}}\n  {says}\n"
            stand.run("apply", "-f", "-", text=made)
            pid = stand.sidecar(name, host, *(flags or ["--access-log", "off"]))
            rows.append((title, pid, host, next(iter(SIDES))))
            if tap is not None:
                stand.start(f"{name}-tap", a.binary, "--home", f"{home}/mesh", "tap", name, *tap)
        for index, (title, more) in enumerate(ENVOYS.items() if a.envoy else ()):
            if not wanted(title):
                continue
            host = f"{NET}{40 + index}"
            conf = Path(home, f"envoy{index}.yaml")
            conf.write_text(ENVOY % {"host": host, "app": f"{NET}2", "more": more % {"dir": home}})
            argv = ["--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c", str(conf)]
            # Without what names a service its tracer refuses.
            argv += ["--service-cluster", "bench", "--service-node", "bench"]
            rows.append((title, stand.start(f"envoy{index}", a.envoy, *argv), host, next(iter(ENVOYS))))
        time.sleep(4)
        wrk = lambda host, seconds: subprocess.run(
            ["wrk", "-t1", f"-c{a.connections}", f"-d{seconds}s", f"http://{host}:9080/orders/7"],
            capture_output=True, text=True,
        ).stdout
        for _, _, host, _ in rows:
            with urllib.request.urlopen(f"http://{host}:9080/orders/7") as answer:
                assert answer.read() == b"ok"
            wrk(host, 1)
        costs = {}
        for _ in range(a.rounds):
            for title, pid, host, _ in random.sample(rows, len(rows)):
                before = cpu(pid)
                said = wrk(host, a.duration)
                # What is sent every second is part of it.
                time.sleep(1)
                took = cpu(pid) - before
                if "Non-2xx" in said or "Socket errors" in said:
                    sys.exit(said)
                count = int(re.search(r"(\d+) requests in", said).group(1))
                costs.setdefault(title, []).append(took / count / 1e3)
        print("| | CPU µs a request | of metrics alone |\n| --- | --: | --: |")
        for title, _, _, base in rows:
            ratios = [mine / other for mine, other in zip(costs[title], costs[base])]
            print(f"| {title} | {statistics.median(costs[title]):.2f} | {statistics.median(ratios):.3f} |")
        if a.json:
            Path(a.json).write_text(json.dumps(costs))


if __name__ == "__main__":
    main()
