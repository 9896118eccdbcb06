// A control plane that says what it is told to: figures that a real mesh gives seldom or in minutes (hundreds of
// services, rollouts in every phase, traces with errors), at once and always the same. It serves the built page as
// `meshctl dashboard` does, with its headers.
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";

const dist = process.env.DIST ?? join(dirname(fileURLToPath(import.meta.url)), "../../assets/dist");
const KINDS = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml" };
const SAID = {
  "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
};
export const SECRET = "ab".repeat(32);

/// Numbers that look like chance and are the same each time.
function dice(seed) {
  let state = seed;
  return () => {
    state = (state * 1_103_515_245 + 12_345) & 0x7fffffff;
    return state / 0x7fffffff;
  };
}

/// Services in layers, each calling a few of the next: a mesh of `n`.
export function mesh(n) {
  const chance = dice(7);
  const spaces = ["shop", "payments", "search", "platform"];
  const names = Array.from({ length: n }, (_, at) => `svc-${String(at).padStart(3, "0")}.${spaces[Math.floor((at / n) * spaces.length)]}`);
  const calls = [];
  for (let at = 0; at < n - 1; at++) {
    const targets = new Set();
    for (let k = 0; k < 1 + Math.floor(chance() * 2.4); k++) targets.add(Math.min(n - 1, at + 1 + Math.floor(chance() * Math.max(3, n / 10))));
    for (const to of targets) calls.push([names[at], names[to]]);
  }
  return { names, calls };
}

const workload = (service) => service.replace(".", "-v1.");

export function world(options = {}) {
  const { names, calls } = mesh(options.services ?? 12);
  const now = () => Date.now();
  const rate = (name) => 2 + (name.charCodeAt(4) * 7 + name.charCodeAt(5) * 13 + name.charCodeAt(6) * 29) % 80;
  const success = (name) => (name.endsWith("3.shop") ? 93.1 : name.charCodeAt(6) % 4 === 0 ? 98.7 : 100);
  const row = (service, more = {}) => ({
    service, version: "", source: "", route: "", requestsPerSecond: rate(service), requests: rate(service) * 60, successPercent: success(service),
    latencyP50Ms: 3.2, latencyP95Ms: 11.8, latencyP99Ms: 24 + (rate(service) % 17), mtlsPercent: 100, retries: 3, timeouts: 0, overflows: 0,
    tcpOpened: 0, tcpSentBytes: 0, tcpReceivedBytes: 0, ...more,
  });
  const edges = calls.map(([from, to], at) => ({
    source: workload(from), destination: to, destinationWorkload: workload(to), protocol: "http",
    clientId: `spiffe://cluster.local/ns/${from.split(".")[1]}/sa/${from.split(".")[0]}`, serverId: "", encrypted: at % 9 !== 4,
    security: at % 9 === 4 ? "plaintext" : "mutualTls", reason: at % 9 === 4 ? "permissive" : "", tlsVersion: at % 9 === 4 ? "" : "TLSv1.3",
    cipher: at % 9 === 4 ? "" : "TLS_AES_128_GCM_SHA256", keyExchange: "X25519MLKEM768", reportedBy: "both", requestsPerSecond: rate(to) / 2,
    requests: rate(to) * 30, connectionsOpened: 1, connectionsOpen: 1, tcpSentBytes: 0, tcpReceivedBytes: 0,
  }));
  edges.unshift({ ...edges[0], source: "", destination: names[0], destinationWorkload: workload(names[0]), security: "plaintext", encrypted: false, reason: "permissive" });
  const series = (query) => {
    const window = Number(query.get("window")), step = Number(query.get("step"));
    const to = Math.floor(now() / 1000 / step) * step * 1000;
    const from = to - window * 1000;
    const by = query.get("by"), service = query.get("service");
    const point = (name, at, bad) => {
      const wave = 1 + 0.35 * Math.sin(at / 240_000 + name.charCodeAt(5)) + 0.08 * Math.sin(at / 17_000 + name.charCodeAt(4));
      const requests = Math.round(rate(name) * step * wave);
      return { atUnixMs: at, requests, retries: Math.round(requests * 0.012), timeouts: 0, overflows: 0, failures: Math.round(requests * (100 - success(name) + bad * 3) / 100), latencyP50Ms: 3 + wave, latencyP95Ms: 9 + 4 * wave + bad * 8, latencyP99Ms: 18 + 11 * wave + bad * 30 };
    };
    const times = [];
    for (let at = from; at < to; at += step * 1000) times.push(at);
    const make = (name, more, bad = 0) => ({ service: name, version: "", source: "", route: "", ...more, points: times.map((at) => point(name, at, bad)) });
    let rows;
    if (by === "source") rows = calls.map(([from_, to_]) => make(to_, { source: workload(from_) }, Math.floor(now() / 60_000) % 2));
    else if (by === "version") rows = ["v1", "v2"].map((version, at) => make(service ?? names[1], { version }, at));
    else rows = (service ? [service] : names).map((name) => make(name, {}));
    return { stepSeconds: step, fromUnixMs: from, toUnixMs: to, rows };
  };
  const measures = (bad) => [
    { metric: "success-rate", value: bad ? 94.2 : 99.93, bound: 99, baseline: 99.95, verdict: bad ? "fail" : "pass", requests: 1840, unit: "%" },
    { metric: "rate:retries", value: 1.2, bound: 5, baseline: 1.1, verdict: "pass", requests: 1840, unit: "%" },
    { metric: "p99", value: bad ? 181 : 41.5, bound: 120, baseline: 38.9, verdict: bad ? "fail" : "pass", requests: 1840, unit: "ms" },
  ];
  const rollout = (service, phase, step) => {
    const [name, namespace] = service.split(".");
    const failed = phase === "RolledBack";
    return {
      service: name, namespace, stable: "v1", canary: "v2", strategy: "weight", phase,
      reason: failed ? "success-rate 94.2 % is below 99 % with 1,840 requests" : phase === "Paused" ? "paused by root" : "",
      step, weight: failed ? 0 : [1, 5, 25, 50, 100][step - 1], failures: failed ? 2 : 0, maxFailures: 2, intervalSeconds: 30,
      startedUnixMs: now() - 400_000, updatedUnixMs: now() - 21_000, message: "",
      steps: [1, 5, 25, 50, 100].map((weight, at) => ({
        weight, state: at + 1 < step ? "passed" : at + 1 === step ? (failed ? "failed" : "running") : "pending",
        ...(at < step ? { startedUnixMs: now() - 400_000 + at * 90_000, measures: measures(failed && at + 1 === step) } : { measures: [] }),
        ...(at + 1 < step ? { endedUnixMs: now() - 310_000 + at * 90_000 } : {}),
      })),
    };
  };
  const rollouts = new Map([[names[1], rollout(names[1], "Progressing", 3)], [names[2], rollout(names[2], "RolledBack", 2)], [names[4], rollout(names[4], "Paused", 2)]]);
  const spans = () => {
    const start = (now() - 30_000) * 1000;
    const list = [];
    const add = (parentId, service, name, kind, from, took, error = false) => {
      const spanId = (list.length + 1).toString(16).padStart(16, "0");
      list.push({ spanId, parentId, service, workload: workload(service), name, kind, startUnixUs: start + from, durationUs: took, error, tags: { "http.method": "GET", "http.status_code": error ? "503" : "200", "response_flags": error ? "UF" : "-", "peer.address": "10.0.0.7:9080" } });
      return spanId;
    };
    const root = add(undefined, names[0], "GET /cart", "SERVER", 0, 48_200);
    const a = add(root, names[0], `${names[1]}:80/*`, "CLIENT", 2_100, 20_300);
    const b = add(a, names[1], "GET /items", "SERVER", 3_000, 18_700);
    add(b, names[1], `${names[3]}:80/*`, "CLIENT", 6_000, 9_000, true);
    const c = add(root, names[0], `${names[2]}:80/*`, "CLIENT", 24_000, 23_100);
    add(c, names[2], "GET /price", "SERVER", 24_900, 21_800);
    return list;
  };
  const objects = [
    { kind: "VirtualService", namespace: "shop", name: "svc-001", createdUnixMs: now() - 9e6, changedUnixMs: now() - 4e5, revision: 12, object: { apiVersion: "networking.istio.io/v1", kind: "VirtualService", metadata: { name: "svc-001", namespace: "shop", resourceVersion: "77" }, spec: { hosts: ["svc-001"], http: [{ match: [{ headers: { "x-user": { exact: "anna" } } }], route: [{ destination: { host: "svc-001", subset: "v2" }, weight: 100 }] }, { route: [{ destination: { host: "svc-001", subset: "v9" }, weight: 10 }, { destination: { host: "svc-001", subset: "v1" }, weight: 90 }], timeout: "3s" }] } } },
    ...names.map((service) => ({ kind: "Service", namespace: service.split(".")[1], name: service.split(".")[0], createdUnixMs: now() - 9e6, changedUnixMs: now() - 9e6, revision: 1, object: { apiVersion: "v1", kind: "Service", metadata: { name: service.split(".")[0], namespace: service.split(".")[1] }, spec: { ports: [{ name: "http", port: 80 }], selector: { app: service.split(".")[0] } } } })),
  ];
  const findings = [{ severity: "error", code: "IST0101", message: "host svc-001 has no subset v9", hint: "add it to the DestinationRule, or name one of v1, v2", path: "spec.http[1].route[0].destination.subset", origin: { kind: "VirtualService", namespace: "shop", name: "svc-001", line: 20, column: 18 } }];
  const services = names.map((service, at) => ({ name: service.split(".")[0], namespace: service.split(".")[1], host: `${service}.svc.cluster.local`, addresses: ["10.0.0.1"], ports: [{ name: "http", port: 80, target: "8080", protocol: "http" }], ready: at === 5 ? 1 : 3, instances: 3, versions: at < 6 ? { v1: 2, v2: 1 } : { v1: 3 }, mtls: "permissive" }));
  const matrix = () => {
    const few = names.slice(0, 12);
    const callers = [...few.map(workload), ""];
    const cells = callers.flatMap((from, a) => few.map((to, b) => ({ from, to, verdict: from === "" ? "denied" : (a * 7 + b * 3) % 11 === 0 ? "denied" : (a + b) % 17 === 5 ? "asked" : "allowed", audited: (a + b) % 5 === 0, because: "rule 1 of ALLOW callers.shop holds", policies: ["ALLOW callers.shop"] })));
    return { callers, services: few, method: "GET", path: "/", cells, leftOut: 0 };
  };
  return { names, calls, edges, row, series, rollouts, rollout, spans, objects, findings, services, matrix, now, posted: [], broken: new Set(), rights: options.rights ?? { change: true, delete: true, lacks: "" }, well: false, role: options.role ?? "owner", about: { context: "default", place: "a fake", flags: "", version: "0.1.0", readOnly: false, inCluster: false, ...options.about }, absent: new Set(options.absent ?? []) };
}

function answer(mesh, method, path, query, body) {
  const { names, edges, calls } = mesh;
  const named = (one) => !query.get("service") || one.service === query.get("service");
  const [, first, second, third, fourth] = path.split("/");
  if (mesh.absent.has(first)) return undefined;
  if (method !== "GET") mesh.posted.push({ method, path, body });
  switch (first) {
    case "version": return { version: "0.1.0", startedUnixMs: mesh.now() - 86_400_000 * 3, revision: 12, trustDomain: "cluster.local" };
    case "access": return { name: "tester", role: mesh.role };
    case "stats": {
      const by = query.get("by");
      if (by === "source") return { windowSeconds: 60, atUnixMs: mesh.now(), rows: calls.map(([from, to]) => mesh.row(to, { source: workload(from) })).filter(named) };
      if (by === "version") return { windowSeconds: 60, atUnixMs: mesh.now(), rows: ["v1", "v2"].map((version) => mesh.row(query.get("service") ?? names[0], { version })) };
      if (by === "backend") return { windowSeconds: 60, atUnixMs: mesh.now(), rows: ["v1", "v2", ""].map((version) => mesh.row(query.get("service") ?? names[0], { route: "split", version, requests: version === "v1" ? 3400 : version ? 376 : 4, requestsPerSecond: version === "v1" ? 56.7 : version ? 6.3 : 0.07, successPercent: version ? 100 : 0, retries: version === "v2" ? 7 : 0, timeouts: version === "v2" ? 2 : 0, overflows: version ? 0 : 4 })) };
      return { windowSeconds: 60, atUnixMs: mesh.now(), rows: names.map((name) => mesh.row(name, { ejectedEndpoints: name === names[1] ? 1 : 0 })).filter(named) };
    }
    case "edges": return { windowSeconds: 60, atUnixMs: mesh.now(), edges: edges.filter((edge) => !query.get("to") || edge.destination === query.get("to")) };
    case "series": return mesh.series(query);
    case "services": return mesh.services;
    case "endpoints": return [0, 1, 2].map((at) => ({ service: query.get("service") ?? names[0], port: 80, address: `10.0.0.${at}:8080`, instance: `pod-${at}`, version: at ? "v1" : "v2", health: at === 2 ? "unhealthy" : "healthy", mtls: true, weight: 1, ...(at === 1 ? { ejectedBy: [0, 6].map((who) => ({ proxy: `${names[who].split(".")[0]}-v1-abcde.${names[who].split(".")[1]}`, workload: workload(names[who]), reason: "consecutive_5xx", sinceUnixMs: mesh.now() - 12_000, untilUnixMs: mesh.now() + 18_000 })) } : {}) }));
    case "routes": return [{ service: query.get("service"), port: 80, index: 0, name: "split", matches: ["header x-user is anna"], action: "forward", backends: [{ cluster: "c", service: query.get("service"), subset: "v1", weight: 90, sharePercent: 90, measuredPercent: 89.6, ready: 2, endpoints: 2 }, { cluster: "c", service: query.get("service"), subset: "v2", weight: 10, sharePercent: 10, measuredPercent: 10.4, ready: 0, endpoints: 1 }], retries: 2, timeoutMs: 3000, origin: "a.yaml:3:1 VirtualService shop/svc-001" }];
    case "proxies": return names.map((name, at) => ({ proxy: `sidecar~10.0.0.${at}~${name}`, name: `${name.split(".")[0]}-v1-abcde`, namespace: name.split(".")[1], workload: workload(name), identity: `spiffe://cluster.local/ns/${name.split(".")[1]}/sa/${name.split(".")[0]}`, client: "meshctl", version: at === 3 ? "0.0.9" : "0.1.0", protocol: "delta", connectedSinceUnixMs: mesh.now() - 3e6, revisionAcked: at === 4 ? 11 : 12, synced: at !== 4, types: ["CDS", "EDS", "LDS", "RDS", "SDS"].map((type) => ({ type, resources: 9, revisionSent: 12, revisionAcked: at === 4 ? 11 : 12, waiting: at === 4, sentUnixMs: 1000, ackedUnixMs: 1012 })) }));
    case "audit": return names.map((name, at) => ({ atUnixMs: mesh.now() - 1e6, event: "certificateIssued", identity: `spiffe://cluster.local/ns/${name.split(".")[1]}/sa/${name.split(".")[0]}`, serial: "ab", expiresUnixMs: mesh.now() + 3.6e6 * (at === 2 ? 0.4 : 20 + at) }));
    case "trust": return { phase: "steady", roots: ["28ae9849d7c06042f35271622655f060515b17fa6c1a5217c13aa78484669299"], connected: names.length, notBelieving: [], notRenewed: [] };
    case "findings": return mesh.findings;
    case "check": return { sections: [{ name: "store", checks: [{ text: "the store takes writes", status: "ok", detail: "" }] }, { name: "proxies", checks: [{ text: "every proxy runs what it was sent", status: mesh.well ? "ok" : "warning", detail: "1 is behind", hint: "see `meshctl proxies`" }] }] };
    case "rights": return mesh.rights;
    case "resources":
      if (method === "POST") return { revision: 13, objects: [{ kind: "VirtualService", namespace: "shop", name: "svc-001", outcome: "configured" }], findings: [], convergence: { proxies: 12, acknowledged: 12, rejected: [], medianMs: 1, lastMs: 2 } };
      if (method === "DELETE") return { revision: 14, objects: [], findings: [], convergence: { proxies: 0, acknowledged: 0, rejected: [], medianMs: 0, lastMs: 0 } };
      return mesh.objects.filter((one) => !second || (one.kind === second && (!query.get("name") || one.name === query.get("name"))));
    case "analyze": return { findings: [], suppressed: 0, files: 1, objects: 1 };
    case "diff": if (body.sources?.[0].text.includes("kind: Nothing")) return { objects: [], proxies: [], unchangedProxies: 12, findings: [], refused: true };
      return { objects: [{ kind: "VirtualService", namespace: "shop", name: "svc-001", outcome: "configured", fields: [{ path: "spec.http[1].timeout", before: "3s", after: "5s" }] }], proxies: [{ proxies: ["a.shop", "b.shop"] }], unchangedProxies: 10, findings: [], refused: false };
    case "history": return [13, 12, 11].map((revision) => ({ revision, atUnixMs: mesh.now() - (14 - revision) * 1e6, who: "anna", what: "apply", objects: [{ kind: "VirtualService", namespace: "shop", name: "svc-001", outcome: "configured" }], changes: [{ kind: "VirtualService", namespace: "shop", name: "svc-001", outcome: "configured", fields: [{ path: "spec.http[1].timeout", before: "1s", after: "3s" }] }] })).filter((one) => !query.get("revision") || one.revision === Number(query.get("revision")));
    case "rollback": return { revision: 14, objects: [], findings: [], convergence: {} };
    case "canaries": return method === "POST" ? {} : [{ service: names[1], origin: "VirtualService shop/svc-001", changedUnixMs: mesh.now() - 1e5, versions: [{ version: "v1", weight: 75, sharePercent: 75, ready: 2, measuredPercent: 74.6, requestsPerSecond: 30, successPercent: 100, latencyP99Ms: 30 }, { version: "v2", weight: 25, sharePercent: 25, ready: 1, measuredPercent: 25.4, requestsPerSecond: 10, successPercent: 99.4, latencyP99Ms: 41 }] }];
    case "rollouts": {
      if (!second) return { rollouts: [...mesh.rollouts.values()] };
      const key = `${third}.${second}`;
      if (fourth === "history") return { rollouts: [mesh.rollout(key, "Succeeded", 5)] };
      if (method === "POST" && !fourth) mesh.rollouts.set(key, mesh.rollout(key, "Initialized", 1));
      const phase = { pause: "Paused", resume: "Progressing", promote: "Succeeded", abort: "RolledBack", undo: "RolledBack" }[fourth];
      const one = mesh.rollouts.get(key);
      if (phase && one) one.phase = phase;
      return one;
    }
    case "traces": {
      if (!second) return { traces: Array.from({ length: 20 }, (_, at) => ({ traceId: (at + 1).toString(16).padStart(32, "0"), rootService: names[0], name: "GET /cart", startedUnixMs: mesh.now() - at * 4000, durationMs: 20 + (at * 37) % 90, spans: 6, errors: at % 4 === 0 ? 1 : 0, services: names.slice(0, 4) })) };
      return { traceId: second, spans: mesh.spans() };
    }
    case "authz": return mesh.matrix();
    default: return undefined;
  }
}

/// Serves `mesh`; gives its address and what ends it.
export async function serve(mesh) {
  const taps = { open: 0, last: undefined };
  const server = createServer((request, response) => {
    const url = new URL(request.url, "http://x");
    for (const [name, value] of Object.entries(SAID)) response.setHeader(name, value);
    const json = (status, value) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(value));
    };
    if (url.pathname === "/session" || url.pathname.startsWith("/api/")) {
      if (request.headers["x-meshctl-session"] !== SECRET) return json(401, { reason: "denied", message: "not the link" });
      if (url.pathname === "/session") return json(200, { ...mesh.about, has: Object.fromEntries(["series", "tap", "traces", "rollouts", "resources"].map((part) => [part, !mesh.absent.has(part)]).concat([["matrix", !mesh.absent.has("authz")]])) });
      const path = url.pathname.slice("/api/v1".length);
      if (path === "/tap" && !mesh.absent.has("tap")) {
        response.writeHead(200, { "content-type": "application/x-ndjson" });
        taps.open++;
        taps.last = url.searchParams;
        let n = 0;
        // Fifty a second, also where timers are late.
        const begun = Date.now();
        const timer = setInterval(() => { while (n < (Date.now() - begun) / 20) {
          const status = n % 13 === 5 ? 503 : n % 7 === 3 ? 404 : 200;
          response.write(`${JSON.stringify({ atUnixMs: Date.now(), source: workload(mesh.names[0]), destination: workload(mesh.names[1]), service: mesh.names[1], version: "v1", method: "GET", authority: "svc-001", path: `/items/${n++}`, status, flags: status === 503 ? "UF" : "-", durationMs: 3.1 + (n % 9), requestBytes: 0, responseBytes: 1834, protocol: "HTTP/1.1", mtls: true, route: "split", requestId: `r-${n}`, traceId: "0".repeat(31) + "1" })}\n`);
        } }, 20);
        response.on("close", () => { taps.open--; clearInterval(timer); });
        return undefined;
      }
      let text = "";
      request.on("data", (part) => { text += part; });
      request.on("end", () => {
        if (mesh.broken.has(`${request.method} ${path}`)) return json(503, { reason: "readOnly", message: "the disk is full", hint: "make room" });
        const told = answer(mesh, request.method, path, url.searchParams, text ? JSON.parse(text) : undefined);
        if (told === undefined) json(404, { reason: "notFound", message: "there is no such path" });
        else json(200, told);
        return undefined;
      });
      return undefined;
    }
    const name = /^\/[^/]+\.[^/]+$/.test(url.pathname) ? url.pathname.slice(1) : "index.html";
    try {
      const zipped = readFileSync(join(dist, `${name}.gz`));
      response.writeHead(200, { "content-type": KINDS[extname(name)], "content-encoding": "gzip" });
      response.end(zipped);
    } catch {
      response.writeHead(404);
      response.end();
    }
    return undefined;
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const origin = `http://127.0.0.1:${server.address().port}`;
  return { origin, link: `${origin}/#session=${SECRET}`, taps, close: () => { server.closeAllConnections(); server.close(); } };
}
