#!/usr/bin/env python3
"""Proxy benchmark harness: what one proxied request costs in CPU, latency and memory. See README.md.

  bench.py --case A,B --proxies direct,nginx,haproxy --rounds 5
  bench.py --case A --proxies haproxy --proxies 'mine=./mine --listen 127.0.0.1:{listen} --to 127.0.0.1:{upstream}'
  bench.py --table results.json [more.json ...]
"""
import argparse, json, os, random, re, shlex, shutil, signal, socket, ssl, statistics, subprocess, sys, tempfile, time, tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
TICK = os.sysconf("SC_CLK_TCK")
PEER_NAME = "server.bench.local"
BODY128, BODY2560 = "x" * 128, "y" * 2560

# chain: the modes of the proxies between client and backend, first one nearest to the client
CASES = {
    "A": dict(title="HTTP/1.1, 128 B, 64 keep-alive connections, closed loop", chain=["http1"], load="wrk", path="/128"),
    "B": dict(title="HTTP/1.1, 128 B at a constant rate (latency)", chain=["http1"], load="rate", path="/128"),
    "C": dict(title="HTTP/1.1, 10 KiB, 64 keep-alive connections, closed loop", chain=["http1"], load="wrk", path="/10k"),
    "D": dict(title="HTTP/2 in, HTTP/1.1 out, 128 B, 8 connections x 8 streams", chain=["h2"], load="h2load", path="/128"),
    "D2": dict(title="HTTP/2 in, HTTP/2 out, POST 100 B (gRPC-like), 8 connections x 8 streams", chain=["h2h2"], load="h2load", path="/128", post=100),
    "E": dict(title="two sidecars, HTTP/1.1 over mTLS between them, 128 B, 64 connections", chain=["mtls-out", "mtls-in"], load="wrk", path="/128"),
    "E2": dict(title="two sidecars, HTTP/2 over mTLS between them, HTTP/1.1 128 B, 64 connections", chain=["mtls2-out", "mtls2-in"], load="wrk", path="/128"),
    "EB": dict(title="two sidecars, HTTP/1.1 over mTLS, constant rate (latency)", chain=["mtls-out", "mtls-in"], load="rate", path="/128"),
    "E2B": dict(title="two sidecars, HTTP/2 over mTLS, constant rate (latency)", chain=["mtls2-out", "mtls2-in"], load="rate", path="/128"),
    "EC": dict(title="two sidecars, HTTP/1.1 over mTLS, 10 KiB, 64 connections", chain=["mtls-out", "mtls-in"], load="wrk", path="/10k"),
    "EL": dict(title="two L4 proxies, mTLS between them, HTTP/1.1 128 B, 64 connections", chain=["tcp-mtls-out", "tcp-mtls-in"], load="wrk", path="/128"),
    "ELF": dict(title="two L4 proxies, mTLS between them, bulk transfer", chain=["tcp-mtls-out", "tcp-mtls-in"], load="iperf3"),
    "F": dict(title="L4 bulk transfer (iperf3, one connection)", chain=["tcp"], load="iperf3"),
    "T": dict(title="L4, HTTP/1.1 128 B messages, 64 connections", chain=["tcp"], load="wrk", path="/128"),
    "G": dict(title="memory: idle, and with 1,000 idle connections that served one request each", chain=["http1"], load="memory"),
    "GT": dict(title="memory: idle, and with 1,000 idle mTLS client connections", chain=["mtls-in"], load="memory", tls=True),
    "H": dict(title="start-up: process start to the first answered request", chain=["http1"], load="startup"),
    "I": dict(title="one connection per request, closed loop, 64 clients", chain=["http1"], load="wrk", path="/128", close=True),
    "U": dict(title="user-space instructions per HTTP/1.1 request (under valgrind: exact, no noise)", chain=["http1"], load="instr", path="/128"),
    "UD": dict(title="user-space instructions per request, HTTP/2 in, HTTP/1.1 out (under valgrind)", chain=["h2"], load="instr", path="/128"),
    "UD2": dict(title="user-space instructions per request, HTTP/2 in, HTTP/2 out, POST 100 B (under valgrind)", chain=["h2h2"], load="instr", path="/128", post=100),
    "IT": dict(title="one mTLS handshake and one request per connection, one client", chain=["mtls-in"], load="handshake", tls=True),
}
# what a kind of load is driven with, if not by this script or lgen.c
TOOLS = {"wrk": "wrk", "h2load": "h2load", "iperf3": "iperf3", "instr": "valgrind"}
# metric: (heading, digits)
METRICS = {
    "cpu_us": ("CPU us/req", 2), "user_us": ("user", 2), "sys_us": ("sys", 2), "cpu_us_1": ("1st hop", 2), "cpu_us_2": ("2nd hop", 2),
    "rps": ("req/s", 0), "util": ("core use", 2), "p50": ("p50 us", 0), "p99": ("p99 us", 0), "p999": ("p99.9 us", 0),
    "p50_add": ("p50 +direct", 0), "p99_add": ("p99 +direct", 0), "gbit": ("Gbit/s", 1), "cpu_ms_gib": ("CPU ms/GiB", 0),
    "rss_idle": ("idle RSS MiB", 1), "rss_1000": ("RSS 1000 conns MiB", 1), "kib_conn": ("KiB/conn", 1), "pss_idle": ("idle PSS MiB", 1),
    "instr": ("instructions/req", 0),
    "start_ms": ("start ms", 1), "rss_after": ("RSS after MiB", 1),
}


def log(*a):
    print(*a, file=sys.stderr, flush=True)


def free_ports(n):
    """n free loopback ports below the ephemeral range, so that outgoing connections cannot take them meanwhile"""
    out = []
    while len(out) < n:
        p = random.randrange(15100, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", p))
            except OSError:
                continue
        if p not in out:
            out.append(p)
    return out


def expand(text, vars_):
    """{name} from vars_, {VAR:-default} from the environment; every other brace stays as it is"""
    text = re.sub(r"\{([A-Z][A-Z0-9_]*):-([^}]*)\}", lambda m: os.environ.get(m[1]) or m[2], text)
    return re.sub(r"\{(\w+)\}", lambda m: str(vars_.get(m[1], m[0])), text)


# ------------------------------------------------------------------------------------------------ processes
def placement(cpu, nice):
    """in a new child: own session, one CPU, and the niceness (also that of the session, which is what counts
    between sessions where the kernel groups them: sched_autogroup)"""
    os.setsid()
    os.sched_setaffinity(0, {cpu})
    if nice == "rt":
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    elif nice:
        os.nice(nice)
        try:
            Path("/proc/self/autogroup").write_text(str(nice))
        except OSError:
            pass


class Proc:
    def __init__(self, argv, cpu, nice, env=None, logf=None, cwd=None):
        self.argv, self.logf, self.aux, self.addr, self.tmp, self.teardown = argv, logf, [], None, None, []
        out = open(logf, "ab") if logf else subprocess.DEVNULL
        self.t0 = time.monotonic()
        self.p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(os.environ, **(env or {})), preexec_fn=lambda: placement(cpu, nice), cwd=cwd)

    def pids(self):
        """this process and its descendants"""
        kids = {}
        for d in os.listdir("/proc"):
            if d.isdigit():
                try:
                    kids.setdefault(int(Path(f"/proc/{d}/stat").read_text().rsplit(")", 1)[1].split()[1]), []).append(int(d))
                except OSError:
                    pass
        out, todo = [], [self.p.pid]
        while todo:
            p = todo.pop()
            out.append(p)
            todo += kids.get(p, [])
        return out

    def cpu(self):
        """(user seconds, system seconds, seconds on CPU by the scheduler's nanosecond clock)"""
        u = s = ns = 0
        for pid in self.pids():
            try:
                f = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                u, s = u + int(f[11]), s + int(f[12])
                for t in os.listdir(f"/proc/{pid}/task"):
                    ns += int(Path(f"/proc/{pid}/task/{t}/schedstat").read_text().split()[0])
            except OSError:
                pass
        return u / TICK, s / TICK, ns / 1e9

    def mem(self):
        """(RSS, PSS, anonymous memory) in KiB"""
        rss = pss = own = 0
        for pid in self.pids():
            try:
                t = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            rss += int(re.search(r"^Rss:\s+(\d+)", t, re.M)[1])
            pss += int(re.search(r"^Pss:\s+(\d+)", t, re.M)[1])
            own += int(re.search(r"^Anonymous:\s+(\d+)", t, re.M)[1])
        return rss, pss, own

    def alive(self):
        return self.p.poll() is None

    def stop(self, gently=False):
        if self.alive():
            pids = self.pids()
            if gently:
                self.p.send_signal(signal.SIGTERM)
                try:
                    self.p.wait(10)
                except subprocess.TimeoutExpired:
                    pass
            self.p.send_signal(signal.SIGKILL)
            for pid in pids[1:]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
        self.p.wait()


def wait_port(addr, proc, timeout=30.0):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if proc and not proc.alive():
            raise RuntimeError(f"{proc.argv[0]} ended with {proc.p.returncode}: {tail(proc.logf)}")
        try:
            socket.create_connection(addr, 0.5).close()
            return
        except OSError:
            time.sleep(0.002)
    raise RuntimeError(f"{addr[0]}:{addr[1]} not open after {timeout} s: {tail(proc.logf) if proc else ''}")


def tail(f, n=600):
    try:
        return Path(f).read_text(errors="replace")[-n:]
    except (OSError, TypeError):
        return ""


# ------------------------------------------------------------------------------------------------ proxies under test
class Proxy:
    """A descriptor: proxies/NAME/proxy.toml, another proxy.toml (NAME=@FILE), or a command line (NAME=CMD)."""

    def __init__(self, spec, modes=None):
        self.name, _, rest = spec.partition("=")
        self.dir, self.versioncmd, self.aux, self.setup = HERE / "proxies" / self.name, None, [], []
        self.teardown = []
        if self.name == "direct":
            self.modes = None
            return
        if rest and not rest.startswith("@"):
            self.cmd = rest
            self.modes = {m: None for m in (modes or (sorted({m for c in CASES.values() for m in c["chain"]}) if "{mode}" in rest else ["http1"]))}
            return
        f = Path(rest[1:]) if rest else self.dir / "proxy.toml"
        if f.is_dir():
            f = f / "proxy.toml"
        if not f.exists():
            sys.exit(f"no such proxy: {self.name} ({f} is missing; known: {', '.join(sorted(p.name for p in (HERE / 'proxies').iterdir()))})")
        d = tomllib.loads(f.read_text())
        self.dir, self.cmd, self.modes, self.versioncmd, self.aux = f.parent, d.get("cmd"), d["modes"], d.get("version"), d.get("aux", [])
        self.setup, self.teardown = d.get("setup", []), d.get("teardown", [])

    def supports(self, chain):
        return self.modes is None or "+".join(chain) in self.modes or all(m in self.modes for m in chain)

    def version(self):
        if not self.versioncmd:
            return ""
        try:
            r = subprocess.run(shlex.split(expand(self.versioncmd, {})), capture_output=True, text=True, timeout=20)
            return (r.stdout + r.stderr).strip().splitlines()[0]
        except (OSError, IndexError, subprocess.TimeoutExpired) as e:
            return f"unknown ({e})"

    def start(self, mode, run, upstream, role):
        """start what serves this mode, nearest to the client first; usually one process"""
        tmp = run.tmp / f"{self.name}-{role}-{random.randrange(1 << 30)}"
        tmp.mkdir()
        listen, admin, x1, x2, x3 = free_ports(5)
        v = dict(run.vars, mode=mode, listen=listen, upstream=upstream, admin=admin, x1=x1, x2=x2, x3=x3, tmp=tmp, role=role, cpu=run.a.proxy_cpu, dir=self.dir)
        m = self.modes[mode]
        m = m if isinstance(m, dict) else {"config": m}
        if m.get("config"):
            dst = tmp / m["config"]
            dst.write_text(expand((self.dir / m["config"]).read_text(), v))
            v["config"] = dst
        for c in m.get("setup", self.setup):
            if not run.a.netns:
                raise RuntimeError("its setup commands need --netns")
            subprocess.run(shlex.split(expand(c, v)), check=True, capture_output=True)
        procs, aux = [], []
        try:
            for i, c in enumerate(m.get("aux", self.aux)):
                aux.append(self.spawn(c, v, tmp / f"aux{i}.log", run.a.load_cpu, run.a.nice))
            for i, c in enumerate(m.get("cmds") or [m.get("cmd", self.cmd)]):
                procs.append(self.spawn(c, v, tmp / f"log{i}", run.a.proxy_cpu, run.a.nice, run.wrap))
        except OSError:
            for p in procs + aux:
                p.stop()
            raise
        procs[0].teardown = m.get("teardown", self.teardown)
        procs[0].aux, procs[0].addr, procs[0].tmp = aux, (m.get("host", "127.0.0.1"), m.get("port", listen)), tmp
        return procs

    @staticmethod
    def spawn(cmd, v, logf, cpu, nice, wrap=()):
        argv, env = shlex.split(expand(cmd, v)), {}
        while argv and re.match(r"^[A-Za-z_]\w*=", argv[0]):
            k, _, val = argv.pop(0).partition("=")
            env[k] = val
        return Proc([*wrap, *argv], cpu, nice, env, logf)


# ------------------------------------------------------------------------------------------------ one run
class Run:
    def __init__(self, a):
        self.a, self.wrap = a, ()
        self.tmp = Path(tempfile.mkdtemp(prefix="bench-"))
        self.vars = dict(peer_name=PEER_NAME, body128=BODY128, body2560=BODY2560, threads=1, host="127.0.0.1")
        self.certs()
        self.lgen = self.tmp / "lgen"
        subprocess.run(["cc", "-O2", "-o", self.lgen, HERE / "lgen.c"], check=True)
        self.h1, self.h2 = free_ports(2)
        conf = self.tmp / "backend.conf"
        conf.write_text(expand((HERE / "backend.conf").read_text(), dict(self.vars, tmp=self.tmp, bind="0.0.0.0" if a.netns else "127.0.0.1", listen=self.h1, listen_h2=self.h2)))
        self.backend = Proc(["nginx", "-c", str(conf), "-p", str(self.tmp)], a.load_cpu, a.nice, logf=self.tmp / "backend.log")
        wait_port(("127.0.0.1", self.h1), self.backend)
        self.iperf, self.iperf_port = None, None

    def certs(self):
        """one CA and two ECDSA P-256 leaf certificates, each with a DNS name and a SPIFFE URI"""
        d = self.tmp / "certs"
        d.mkdir()
        sh = lambda *c: subprocess.run(["openssl", *map(str, c)], check=True, capture_output=True)
        ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        sh("req", "-x509", *ec, "-days", 30, "-subj", "/CN=bench CA", "-keyout", d / "ca.key", "-out", d / "ca.crt")
        for w in ("server", "client"):
            sh("req", *ec, "-subj", f"/CN={w}", "-keyout", d / f"{w}.key", "-out", d / f"{w}.csr")
            (d / "ext").write_text(f"subjectAltName=DNS:{w}.bench.local,URI:spiffe://bench.local/ns/default/sa/{w}\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n")
            sh("x509", "-req", "-in", d / f"{w}.csr", "-CA", d / "ca.crt", "-CAkey", d / "ca.key", "-CAcreateserial", "-days", 30, "-extfile", d / "ext", "-out", d / f"{w}.crt")
            (d / f"{w}.pem").write_text((d / f"{w}.crt").read_text() + (d / f"{w}.key").read_text())
            self.vars |= {f"cert_{w}": d / f"{w}.crt", f"key_{w}": d / f"{w}.key", f"pem_{w}": d / f"{w}.pem"}
        self.vars |= dict(ca=d / "ca.crt", certs=d)

    def close(self):
        for p in (self.backend, self.iperf):
            if p:
                p.stop()
        if not self.a.keep:
            shutil.rmtree(self.tmp, ignore_errors=True)

    def load(self, argv, timeout):
        """run a load tool on the load CPU and return its standard output"""
        r = subprocess.run([str(x) for x in argv], capture_output=True, text=True, timeout=timeout, preexec_fn=lambda: placement(self.a.load_cpu, self.a.nice))
        if r.returncode:
            raise RuntimeError(f"{argv[0]}: {r.stderr[-300:] or r.stdout[-300:]}")
        return r.stdout

    def one(self, case, proxy):
        """start the chain, drive one case through it, return its metrics"""
        c = CASES[case]
        if c["load"] == "instr" and not self.wrap:
            return self.instructions(case, proxy)
        procs, up = [], self.h1
        if c["chain"][-1] == "h2h2":
            up = self.h2
        if c["load"] == "iperf3":
            if not self.iperf or not self.iperf.alive():
                self.iperf_port = free_ports(1)[0]
                self.iperf = Proc(["iperf3", "-s", "-B", "0.0.0.0" if self.a.netns else "127.0.0.1", "-p", str(self.iperf_port)], self.a.load_cpu, self.a.nice)
                time.sleep(0.3)
            up = self.iperf_port
        try:
            addr = ("127.0.0.1", self.h2 if proxy.modes is None and c["chain"][0] == "h2" else up)
            if proxy.modes is not None:
                pair = "+".join(c["chain"])
                for i, mode in reversed(list(enumerate([pair] if pair in proxy.modes else c["chain"]))):
                    procs = proxy.start(mode, self, addr[1], i + 1) + procs
                    addr = procs[0].addr
                    if c["load"] != "startup":
                        wait_port(addr, procs[0])
            return getattr(self, "load_" + c["load"])(c, addr, procs)
        finally:
            for p in procs:
                for q in p.aux:
                    q.stop()
                p.stop(self.a.term)
                for c in p.teardown:
                    subprocess.run(shlex.split(c), capture_output=True)
                if p.tmp and not self.a.keep:
                    shutil.rmtree(p.tmp, ignore_errors=True)

    # -- measuring helpers
    def check(self, c, addr):
        """the path must work before it is measured"""
        last = None
        for _ in range(200):
            try:
                with socket.create_connection(addr, 5) as s:
                    s.settimeout(5)
                    if c.get("tls"):
                        s = self.tls(s)
                    body = self.get(s, c["path"])
                if len(body) == (10240 if c["path"] == "/10k" else 128):
                    return
                last = f"body of {len(body)} bytes"
            except (OSError, ValueError) as e:
                last = repr(e)
            time.sleep(0.05)
        raise RuntimeError(f"check request failed: {last}")

    def tls(self, s):
        x = ssl.create_default_context(cafile=str(self.vars["ca"]))
        x.load_cert_chain(self.vars["cert_client"], self.vars["key_client"])
        return x.wrap_socket(s, server_hostname=PEER_NAME)

    @staticmethod
    def get(s, path, close=False):
        s.sendall(f"GET {path} HTTP/1.1\r\nHost: bench.local\r\n{'Connection: close' + chr(13) + chr(10) if close else ''}\r\n".encode())
        b = b""
        while b"\r\n\r\n" not in b:
            d = s.recv(65536)
            if not d:
                raise ValueError(f"connection closed after {b[:80]!r}")
            b += d
        head, _, body = b.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ValueError(head[:80])
        m = re.search(rb"content-length:\s*(\d+)", head, re.I)
        n = int(m[1]) if m else 0
        while len(body) < n:
            d = s.recv(65536)
            if not d:
                raise ValueError("short body")
            body += d
        return body

    def cpu0(self):
        """(busy seconds, stolen seconds) of the proxy's CPU, all processes"""
        for l in Path("/proc/stat").read_text().splitlines():
            f = l.split()
            if f[0] == f"cpu{self.a.proxy_cpu}":
                v = [int(x) for x in f[1:9]]
                return (sum(v) - v[3] - v[4] - v[7]) / TICK, v[7] / TICK

    def measured(self, procs, fn):
        """run fn; metrics of what the proxies and their CPU did meanwhile"""
        a, n0, t0 = [p.cpu() for p in procs], self.cpu0(), time.monotonic()
        res = fn()
        b, n1, wall = [p.cpu() for p in procs], self.cpu0(), time.monotonic() - t0
        d = [tuple(y - x for x, y in zip(i, j)) for i, j in zip(a, b)]
        for p in procs:
            if not p.alive():
                raise RuntimeError(f"the proxy ended during the run: {tail(p.logf)}")
        tot = sum(x[2] for x in d)
        return res, d, dict(util=tot / wall, noise=max(0.0, (n1[0] - n0[0] - tot) / wall), steal=(n1[1] - n0[1]) / wall)

    @staticmethod
    def per_request(m, d, n):
        if d and n:
            ticks = sum(x[0] + x[1] for x in d)
            m["cpu_us"] = sum(x[2] for x in d) / n * 1e6
            m["cpu_us_ticks"] = ticks / n * 1e6
            share = sum(x[0] for x in d) / ticks if ticks else 0
            m["user_us"], m["sys_us"] = m["cpu_us"] * share, m["cpu_us"] * (1 - share)
            if len(d) > 1:
                for i, x in enumerate(d):
                    m[f"cpu_us_{i + 1}"] = x[2] / n * 1e6

    # -- the loads
    def instructions(self, case, proxy):
        """run twice with different numbers of requests; the difference is free of start-up cost"""
        got = []
        for n in (1000, 3000):
            self.nreq, out = n, self.tmp / "cachegrind.out"
            self.wrap = ("valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={out}")
            try:
                self.one(case, proxy)
            finally:
                self.wrap = ()
            got.append(int(re.search(r"^summary: (\d+)", out.read_text(), re.M)[1]))
            out.unlink()
        return dict(instr=(got[1] - got[0]) / 2000)

    def load_instr(self, c, addr, procs):
        if c["chain"][0] == "http1":
            self.check(c, addr)
        extra = self.post(c) if c.get("post") else ["--h1"] if c["chain"][0] == "http1" else []
        out = self.load(["h2load", "-t1", "-c8", "-n", self.nreq, *extra, f"http://{addr[0]}:{addr[1]}{c['path']}"], 300)
        if f" {self.nreq} succeeded" not in out:
            raise RuntimeError(out[-300:])
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):  # it must end by itself for valgrind to report
            try:
                procs[0].p.send_signal(sig)
                procs[0].p.wait(8)
                return {}
            except subprocess.TimeoutExpired:
                pass
        raise RuntimeError("does not end on SIGTERM or SIGINT")

    def post(self, c):
        f = self.tmp / "post"
        f.write_bytes(b"p" * c["post"])
        return ["-d", f, "-H", "content-type: application/grpc", "-H", "te: trailers"]

    def load_wrk(self, c, addr, procs):
        self.check(c, addr)
        argv = lambda s: ["wrk", "-t1", f"-c{self.a.conns}", f"-d{s}s", "--latency", *(["-H", "Connection: close"] if c.get("close") else []), f"http://{addr[0]}:{addr[1]}{c['path']}"]
        self.load(argv(1), 60)
        out, d, m = self.measured(procs, lambda: self.load(argv(self.a.duration), self.a.duration + 60))
        n, secs = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", out).groups()[:2]
        n = int(n)
        us = lambda s: float(s[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[s[2]]
        for q, k in (("50", "p50"), ("99", "p99")):
            m[k] = us(re.search(rf"^\s+{q}%\s+([\d.]+)(us|ms|s)", out, re.M))
        bad = sum(int(x) for x in re.findall(r"(?:connect|read|write|timeout) (\d+)", out)) + sum(int(x) for x in re.findall(r"Non-2xx or 3xx responses: (\d+)", out))
        if bad > n * 0.001:
            raise RuntimeError(f"{bad} errors in {n} requests: {out[-200:]}")
        m |= dict(rps=n / float(secs), requests=n, errors=bad)
        if procs:
            m["rss_after"] = sum(p.mem()[0] for p in procs) / 1024
        self.per_request(m, d, n)
        return m

    def load_rate(self, c, addr, procs):
        self.check(c, addr)
        out, d, m = self.measured(procs, lambda: json.loads(self.load([self.lgen, *addr, c["path"], self.a.rate, 50, self.a.duration, 1], self.a.duration + 60)))
        if out["errors"] > out["all"] * 0.001:
            raise RuntimeError(f"errors: {out}")
        m |= {k: out["corrected"][k] for k in ("p50", "p90", "p99", "p999", "max")}
        m |= {"service_" + k: v for k, v in out["service"].items()}
        m |= dict(requests=out["all"], rps=self.a.rate)
        self.per_request(m, d, out["all"])
        return m

    def load_h2load(self, c, addr, procs):
        extra = self.post(c) if c.get("post") else []
        argv = lambda s: ["h2load", "-t1", "-c8", "-m8", "-D", s, *extra, f"http://{addr[0]}:{addr[1]}{c['path']}"]
        for _ in range(50):  # also the check
            if re.search(r" ([1-9]\d*) succeeded", self.load(["h2load", "-n1", "-c1", *extra, f"http://{addr[0]}:{addr[1]}{c['path']}"], 60)):
                break
            time.sleep(0.1)
        else:
            raise RuntimeError("check request failed over HTTP/2")
        self.load(argv(1), 60)
        out, d, m = self.measured(procs, lambda: self.load(argv(self.a.duration), self.a.duration + 60))
        n = int(re.search(r"status codes: (\d+) 2xx", out)[1])
        bad = int(re.search(r"(\d+) failed", out)[1]) + int(re.search(r"(\d+) 5xx", out)[1])
        if not n or bad > n * 0.001 + 64:
            raise RuntimeError(f"{bad} errors in {n} requests")
        m |= dict(rps=n / self.a.duration, requests=n, errors=bad)
        if procs:
            m["rss_after"] = sum(p.mem()[0] for p in procs) / 1024
        self.per_request(m, d, n)
        return m

    def load_iperf3(self, c, addr, procs):
        argv = ["iperf3", "-c", addr[0], "-p", addr[1], "-J", "-t", self.a.duration]
        time.sleep(0.2)
        out, d, m = self.measured(procs, lambda: json.loads(self.load(argv, self.a.duration + 60)))
        e = out["end"]["sum_received"]
        m["gbit"] = e["bits_per_second"] / 1e9
        if d:
            m["cpu_ms_gib"] = sum(x[2] for x in d) * 1e3 / (e["bytes"] / 2**30)
        return m

    def load_memory(self, c, addr, procs):
        if not procs:
            return {}
        time.sleep(1)
        idle = procs[0].mem()
        # anonymous memory, from a base that has served: pages of code come and go, and are no connection's
        for _ in range(3):
            with socket.create_connection(addr, 10) as s:
                with (self.tls(s) if c.get("tls") else s) as t:
                    self.get(t, "/128", close=True)
        time.sleep(1)
        warm = procs[0].mem()
        ss = []
        try:
            for _ in range(1000):
                s = socket.create_connection(addr, 10)
                if c.get("tls"):
                    s = self.tls(s)
                ss.append(s)
                self.get(s, "/128")
            time.sleep(1)
            full = procs[0].mem()
        finally:
            for s in ss:
                s.close()
        return dict(rss_idle=idle[0] / 1024, pss_idle=idle[1] / 1024, rss_1000=full[0] / 1024, kib_conn=(full[2] - warm[2]) / 1000)

    def load_startup(self, c, addr, procs):
        if not procs:
            return {}
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                with socket.create_connection(addr, 5) as s:
                    s.settimeout(5)
                    self.get(s, "/128")
                return dict(start_ms=(time.monotonic() - procs[0].t0) * 1e3)
            except (OSError, ValueError):
                time.sleep(0.0005)
        raise RuntimeError("no answer within 30 s")

    def load_handshake(self, c, addr, procs):
        self.check(dict(c, path="/128"), addr)
        n = 300

        def go():
            for _ in range(n):
                with socket.create_connection(addr, 10) as s:
                    with self.tls(s) as t:
                        self.get(t, "/128", close=True)
        os.sched_setaffinity(0, {self.a.load_cpu})
        _, d, m = self.measured(procs, go)
        self.per_request(m, d, n)
        return m


# ------------------------------------------------------------------------------------------------ output
def added(recs):
    """latency over direct: same round, same case"""
    base = {(r["case"], r["round"]): r["m"] for r in recs if r["proxy"] == "direct" and "p50" in r["m"]}
    fallback = {}
    for (c, _), m in base.items():
        fallback.setdefault(c, []).append(m)
    for r in recs:
        if CASES.get(r["case"], {}).get("load") == "rate" and r["proxy"] != "direct" and "p50" in r["m"]:
            b = base.get((r["case"], r["round"]))
            if b:
                r["m"]["p50_add"], r["m"]["p99_add"] = r["m"]["p50"] - b["p50"], r["m"]["p99"] - b["p99"]


def table(recs, ref):
    added(recs)
    out = []
    for case in CASES:
        rs = [r for r in recs if r["case"] == case]
        if not rs:
            continue
        out.append(f"\n### {case}: {CASES[case]['title']}\n")
        names = list(dict.fromkeys(r["proxy"] for r in rs))
        keys = [k for k in METRICS if any(k in r["m"] for r in rs)]
        main = next((k for k in ("cpu_us", "cpu_ms_gib", "instr", "start_ms", "rss_1000") if k in keys), keys[0] if keys else None)
        byround = {(r["proxy"], r["round"]): r["m"] for r in rs if "error" not in r}
        rows = []
        for n in names:
            ms = [r["m"] for r in rs if r["proxy"] == n and "error" not in r]
            errs = [r["error"] for r in rs if r["proxy"] == n and "error" in r]
            row = [n, f"{len(ms)}" + (f" ({len(errs)} failed)" if errs else "")]
            for k in keys:
                v = [m[k] for m in ms if k in m]
                row.append(f"{statistics.median(v):,.{METRICS[k][1]}f}" if v else "")
            v = sorted(m[main] for m in ms if main in m)
            row.append(f"{v[0]:.1f}..{v[-1]:.1f}" if v else "")
            q = [m[main] / byround[ref, rd][main] for (p, rd), m in byround.items() if p == n and main in m and main in byround.get((ref, rd), {})]
            row.append(f"{statistics.median(q):.2f}" if q else "")
            v = [m["noise"] for m in ms if "noise" in m]
            row.append(f"{statistics.median(v):.2f}" if v else "")
            order = statistics.median(m[main] for m in ms) if main and all(main in m for m in ms) and ms else -1
            rows.append((order, row))
        head = ["proxy", "runs"] + [METRICS[k][0] for k in keys] + [f"range of {METRICS[main][0]}" if main else "range", f"ratio to {ref}", "noise"]
        rows = [head, ["---"] * len(head)] + [r for _, r in sorted(rows, key=lambda x: x[0])]
        w = [max(len(r[i]) for r in rows) for i in range(len(head))]
        out += ["| " + " | ".join(x.ljust(w[i]) if r[0] != "---" else "-" * w[i] for i, x in enumerate(r)) + " |" for r in rows]
    return "\n".join(out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog="cases:\n" + "\n".join(f"  {k:4} {v['title']}" for k, v in CASES.items()))
    p.add_argument("--case", default="A", help="comma list, or all")
    p.add_argument("--proxies", action="append", help="comma list of direct, NAME (proxies/NAME/), NAME=@proxy.toml, NAME=COMMAND LINE; may be repeated")
    p.add_argument("--modes", action="append", default=[], help="NAME=mode,mode: the modes that the command line NAME=CMD supports (default: http1, or all when CMD has {mode})")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--duration", type=int, default=3, help="seconds per measurement")
    p.add_argument("--conns", type=int, default=64, help="connections of the closed-loop HTTP/1.1 cases")
    p.add_argument("--rate", type=int, default=2000, help="requests per second of the constant-rate cases")
    p.add_argument("--ref", default="haproxy", help="the proxy that ratios refer to")
    p.add_argument("--proxy-cpu", type=int, default=0)
    p.add_argument("--load-cpu", type=int, default=1)
    p.add_argument("--nice", type=int, default=0, help="added to the niceness of proxies, backend and load (negative needs root)")
    p.add_argument("--rt", action="store_true", help="real-time scheduling (SCHED_FIFO) instead of a niceness: near-idle-machine latency on a busy machine, at the expense of everyone else on it (root; keep it to the constant-rate cases)")
    p.add_argument("--max-noise", type=float, default=9, help="repeat a run (up to --retries times) while other processes took more than this share of the proxy's CPU")
    p.add_argument("--retries", type=int, default=2)
    p.add_argument("--out", help="write (and, if it exists, append to) this JSON file")
    p.add_argument("--netns", action="store_true", help="run in a private network namespace (root): no port clashes with other users of the machine; needed by descriptors with setup commands")
    p.add_argument("--term", action="store_true", help="end proxies by SIGTERM, so that they can write what they have recorded")
    p.add_argument("--keep", action="store_true", help="keep the temporary files (configs, logs, certificates)")
    p.add_argument("--table", nargs="+", metavar="JSON", help="only print the table of these result files")
    a = p.parse_args()
    if a.table:
        recs = []
        for i, f in enumerate(a.table):
            for r in json.loads(Path(f).read_text())["results"]:
                r["round"] = f"{i}.{r['round']}"
                recs.append(r)
        print(table(recs, a.ref))
        return
    if a.netns and not os.environ.get("BENCH_NETNS"):
        os.environ["BENCH_NETNS"] = "1"
        os.execvp("unshare", ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, *sys.argv])
    if a.rt:
        a.nice = "rt"
    specs = []
    for group in a.proxies or ["direct,nginx,haproxy"]:
        for s in group.split(","):
            known = s == "direct" or (HERE / "proxies" / s.split("=")[0]).is_dir()
            if "=" in s or known or not specs or "=" not in specs[-1]:
                specs.append(s)
            else:
                specs[-1] += "," + s  # a comma inside a command line
    modes = {k: v.split(",") for k, _, v in (m.partition("=") for m in a.modes)}
    proxies = [Proxy(s, modes.get(s.split("=")[0])) for s in specs]
    cases = list(CASES) if a.case == "all" else a.case.split(",")
    for c in cases:
        if c not in CASES:
            sys.exit(f"no such case: {c}; there are {', '.join(CASES)}")
    loads = {CASES[c]["load"] for c in cases}
    for t in ["nginx", "openssl", "cc"] + sorted({TOOLS[x] for x in loads if x in TOOLS}):
        if not shutil.which(t):
            sys.exit(f"{t} is missing: apt-get install nginx wrk nghttp2-client iperf3 valgrind openssl gcc libc6-dev")
    if not {a.proxy_cpu, a.load_cpu} <= os.sched_getaffinity(0):
        sys.exit("these CPUs are not available: see --proxy-cpu and --load-cpu")
    out = dict(meta={}, results=[])
    if a.out and Path(a.out).exists():
        out = json.loads(Path(a.out).read_text())
    run0 = 1 + max([r["round"] for r in out["results"]], default=0)
    out["meta"].update(versions=out["meta"].get("versions", {}) | {x.name: x.version() for x in proxies if x.modes is not None},
                       cmds=out["meta"].get("cmds", {}) | {x.name: x.cmd for x in proxies if x.modes is not None},
                       kernel=os.uname().release, cpu=next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), ""), args=sys.argv[1:])
    run = Run(a)
    try:
        for rnd in range(run0, run0 + a.rounds):
            for c in cases:
                order = [x for x in proxies if x.supports(CASES[c]["chain"]) and not (x.modes is None and CASES[c]["load"] in ("memory", "startup", "handshake", "instr"))]
                random.shuffle(order)  # interleaved, and in a new order each round
                for x in order:
                    rec, best = dict(case=c, proxy=x.name, round=rnd, at=time.time()), None
                    for _ in range(1 + a.retries):
                        try:
                            m = run.one(c, x)
                        except (RuntimeError, StopIteration, subprocess.SubprocessError, OSError, ValueError, AttributeError, KeyError) as e:
                            m = e
                            break
                        if best is None or m.get("noise", 0) < best.get("noise", 0):
                            best = m
                        if best.get("noise", 0) <= a.max_noise:
                            break
                    if best is None:
                        rec |= dict(m={}, error=str(m))
                    else:
                        rec["m"] = best
                    out["results"].append(rec)
                    log(f"round {rnd} {c:3} {x.name:16}", rec.get("error") or " ".join(f"{k}={v:.1f}" if isinstance(v, float) else f"{k}={v}" for k, v in rec["m"].items() if k in METRICS or k == "noise"))
                    if a.out:
                        Path(a.out + ".tmp").write_text(json.dumps(out))
                        os.replace(a.out + ".tmp", a.out)
    except KeyboardInterrupt:
        pass
    finally:
        run.close()
    print(table(out["results"], a.ref))


if __name__ == "__main__":
    main()
