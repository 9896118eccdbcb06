#!/usr/bin/env python3
"""One table from results of peers/bench.py: every case, every proxy, our goal, and whether it is met.

  tests/bench/page.py target/bench/all.json [more.json ...]

Figures are medians over rounds. A goal is a bound made from the peers' medians of the same run; where the peer that
it speaks of was not measured, the row says so instead of passing.
"""
import json, statistics, sys

PEERS = ["nginx", "haproxy", "envoy", "ztunnel"]
# case, metric, digits, what it is, bound (from a function "peer's median of a case"), how the bound reads
lower = lambda *of: min(v for v in of if v is not None) if any(v is not None for v in of) else None
times = lambda v, f: None if v is None else v * f
ROWS = [
    ("A", "cpu_us", 1, "HTTP/1.1 128 B: CPU µs a request", lambda g: lower(g("nginx"), g("haproxy")), "lower of nginx, HAProxy"),
    ("C", "cpu_us", 1, "HTTP/1.1 10 KiB: CPU µs", lambda g: lower(g("nginx"), g("haproxy")), "lower of nginx, HAProxy"),
    ("I", "cpu_us", 1, "a connection per request: CPU µs", lambda g: times(g("envoy"), 0.35), "0.35 × Envoy"),
    ("I", "rps", 0, "new connections a second, one request each", None, ""),
    ("D", "cpu_us", 1, "HTTP/2 in, HTTP/1.1 out: CPU µs", lambda g: times(g("haproxy"), 1.15), "1.15 × HAProxy"),
    ("D2", "cpu_us", 1, "HTTP/2 in and out: CPU µs", lambda g: times(g("haproxy"), 1.15), "1.15 × HAProxy"),
    ("E", "cpu_us", 1, "two sidecars, HTTP/1.1 over mTLS: CPU µs of both", lambda g: times(g("envoy"), 0.35), "0.35 × Envoy"),
    ("E2", "cpu_us", 1, "two sidecars, HTTP/2 over mTLS: CPU µs of both", lambda g: lower(g("nginx", "E"), g("haproxy", "E"), g("haproxy")), "cheapest of nginx, HAProxy"),
    ("EC", "cpu_us", 1, "two sidecars, 10 KiB over mTLS: CPU µs of both", lambda g: times(g("envoy"), 0.35), "0.35 × Envoy"),
    ("T", "cpu_us", 1, "L4: CPU µs a message", lambda g: g("ztunnel"), "ztunnel"),
    ("EL", "cpu_us", 1, "two L4 proxies over mTLS: CPU µs of both", lambda g: g("ztunnel"), "ztunnel"),
    ("F", "cpu_ms_gib", 0, "L4 bulk: CPU ms a GiB", None, ""),
    ("IT", "cpu_us", 0, "an mTLS handshake and a request: CPU µs", lambda g: times(g("nginx"), 1 / 3), "nginx / 3"),
    ("B", "p50_add", 0, "added p50 at a constant rate, µs", None, ""),
    ("B", "p99_add", 0, "added p99 at a constant rate, µs", lambda g: lower(g("nginx"), g("envoy"), g("haproxy")), "lowest of the peers"),
    ("B", "p999", 0, "p99.9 at a constant rate, µs", None, ""),
    ("G", "rss_idle", 1, "idle: MiB", lambda g: 12, "12"),
    ("G", "kib_conn", 1, "an idle connection: KiB", lambda g: 3, "3"),
    ("GT", "kib_conn", 1, "an idle mTLS connection: KiB", lambda g: 32, "32"),
    ("H", "start_ms", 1, "start to the first answer, ms", lambda g: 30, "30"),
    ("U", "instr", 0, "instructions in user space, HTTP/1.1", None, ""),
    ("UD", "instr", 0, "instructions in user space, HTTP/2 to HTTP/1.1", None, ""),
    ("UD2", "instr", 0, "instructions in user space, HTTP/2 to HTTP/2", None, ""),
]


def main(paths):
    results, meta = [], {}
    for path in paths:
        data = json.load(open(path))
        results += [r for r in data["results"] if "error" not in r]
        meta |= data["meta"]
    base = {(r["case"], r["round"]): r["m"] for r in results if r["proxy"] == "direct"}
    for r in results:
        direct = base.get((r["case"], r["round"]), {})
        for q in ("p50", "p99"):
            if q in direct and r["proxy"] != "direct":
                r["m"][f"{q}_add"] = r["m"][q] - direct[q]

    def median(proxy, case, key):
        values = [r["m"][key] for r in results if (r["proxy"], r["case"]) == (proxy, case) and key in r["m"]]
        return statistics.median(values) if values else None

    peers = [p for p in PEERS if any(r["proxy"] == p for r in results)]
    head = ["case", "", "meshctl", *peers, "goal: at most", ""]
    rows, missed = [head, ["---", "---"] + ["--:"] * (len(peers) + 1) + ["---", "---"]], 0
    for case, key, digits, what, bound, reads in ROWS:
        ours = median("meshctl", case, key)
        if ours is None:
            continue
        show = lambda v: "" if v is None else f"{v:,.{digits}f}"
        limit = bound and bound(lambda peer, of=case: median(peer, of, key))
        verdict = "" if bound is None else "not measured" if limit is None else "met" if ours <= limit else "**missed**"
        missed += verdict == "**missed**"
        goal = f"{reads} ({show(limit)})" if limit is not None and reads != show(limit) else reads
        rows.append([case, what, show(ours), *(show(median(p, case, key)) for p in peers), goal, verdict])
    rounds = len({r["round"] for r in results})
    print("\n".join("| " + " | ".join(row) + " |" for row in rows))
    print(f"\n{rounds} interleaved rounds, medians, one worker each; {meta.get('cpu', '')}, Linux {meta.get('kernel', '')}.")
    for name, version in meta.get("versions", {}).items():
        print(f"- {name}: {version}")
    return missed


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    sys.exit(1 if main(sys.argv[1:]) else 0)
