// Who calls whom, as nodes and edges: what connections say of themselves, joined with what was measured.
import type { Edge, Series, StatsRow } from "../types";

export interface Node { id: string; label: string; namespace: string; service: boolean; rps: number; success?: number;
  /// Stands for a namespace.
  box?: boolean;
}
export interface Call {
  id: string; from: string; to: string; rps: number; success?: number; p99?: number;
  /// All, some or none of the connections are mTLS; empty where nobody has said.
  secure: "all" | "some" | "none" | ""; security: string; protocol: string; sources: string[];
}
export interface Graph { nodes: Node[]; calls: Call[] }

export const OUTSIDE = "outside";

/// A workload that answers for a service is drawn as that service.
function services(edges: Edge[]): Map<string, string> {
  const of = new Map<string, string>();
  for (const edge of edges) if (edge.destinationWorkload && edge.destination) of.set(edge.destinationWorkload, edge.destination);
  return of;
}

interface Part { from: string; to: string; source: string; requests: number; rps: number; failures: number; p99?: number }

function made(parts: Part[], edges: Edge[], of: Map<string, string>): Graph {
  const calls = new Map<string, Call & { requests: number; failures: number }>();
  const call = (from: string, to: string) => {
    const id = `${from}>${to}`;
    const one = calls.get(id) ?? { id, from, to, rps: 0, secure: "" as const, security: "", protocol: "", sources: [], requests: 0, failures: 0 };
    calls.set(id, one);
    return one;
  };
  for (const part of parts) {
    const one = call(part.from, part.to);
    one.rps += part.rps;
    one.requests += part.requests;
    one.failures += part.failures;
    if (part.p99 !== undefined) one.p99 = Math.max(one.p99 ?? 0, part.p99);
    if (part.source && !one.sources.includes(part.source)) one.sources.push(part.source);
  }
  for (const edge of edges) {
    const one = call(of.get(edge.source) ?? (edge.source || OUTSIDE), edge.destination || edge.destinationWorkload);
    const mutual = edge.security === "mutualTls";
    one.secure = one.secure === "" ? (mutual ? "all" : "none") : (one.secure === "all") === mutual ? one.secure : "some";
    one.security ||= mutual ? `${edge.tlsVersion} ${edge.cipher} ${edge.keyExchange}` : edge.security + (edge.reason ? ` (${edge.reason})` : "");
    one.protocol ||= edge.protocol;
    if (edge.source && !one.sources.includes(edge.source)) one.sources.push(edge.source);
    // Bytes have connections and no requests.
    if (one.requests === 0 && edge.requests > 0 && !parts.length) one.rps += edge.requestsPerSecond;
  }
  const nodes = new Map<string, Node & { requests: number; failures: number }>();
  const node = (id: string) => {
    const at = id.lastIndexOf(".");
    const one = nodes.get(id) ?? {
      id, label: id === OUTSIDE || at < 0 ? id : id.slice(0, at), namespace: id === OUTSIDE || at < 0 ? "" : id.slice(at + 1),
      service: false, rps: 0, requests: 0, failures: 0,
    };
    nodes.set(id, one);
    return one;
  };
  for (const one of calls.values()) {
    if (one.requests > 0) one.success = 100 * (1 - one.failures / one.requests);
    node(one.from);
    const to = node(one.to);
    to.service = true;
    to.rps += one.rps;
    to.requests += one.requests;
    to.failures += one.failures;
  }
  for (const one of nodes.values()) if (one.requests > 0) one.success = 100 * (1 - one.failures / one.requests);
  return {
    nodes: [...nodes.values()].sort((a, b) => a.id < b.id ? -1 : 1),
    calls: [...calls.values()].sort((a, b) => a.id < b.id ? -1 : 1),
  };
}

/// The graph of now.
export function live(edges: Edge[], rows: StatsRow[]): Graph {
  const of = services(edges);
  const parts = rows.filter((row) => row.requests > 0).map((row) => ({
    from: of.get(row.source) ?? (row.source || OUTSIDE), to: row.service, source: row.source, requests: row.requests, rps: row.requestsPerSecond,
    failures: row.requests * (100 - (row.successPercent ?? 100)) / 100, p99: row.latencyP99Ms,
  }));
  return made(parts, edges, of);
}

/// The times of which a series tells, oldest first.
export const moments = (series: Series): number[] =>
  [...new Set(series.rows.flatMap((row) => row.points.map((point) => point.atUnixMs)))].sort((a, b) => a - b);

/// The graph as it was at `at`. Whoever called at any time is in it, so that nothing moves while time does.
export function past(series: Series, edges: Edge[], at: number): Graph {
  const of = services(edges);
  const parts = series.rows.map((row) => {
    const point = row.points.find((one) => one.atUnixMs === at);
    return {
      from: of.get(row.source) ?? (row.source || OUTSIDE), to: row.service, source: row.source, requests: point?.requests ?? 0,
      rps: (point?.requests ?? 0) / series.stepSeconds, failures: point?.failures ?? 0, p99: point?.latencyP99Ms,
    };
  });
  return made(parts, edges, of);
}

/// What is drawn around `focus`: it, who calls it and whom it calls.
export function around(graph: Graph, focus: string): Graph {
  const calls = graph.calls.filter((one) => one.from === focus || one.to === focus);
  const kept = new Set([focus, ...calls.flatMap((one) => [one.from, one.to])]);
  return { nodes: graph.nodes.filter((node) => kept.has(node.id)), calls };
}

export function only(graph: Graph, calls: (call: Call) => boolean, nodes: (node: Node) => boolean): Graph {
  const kept = new Map(graph.nodes.filter(nodes).map((node) => [node.id, node]));
  const chosen = graph.calls.filter((one) => kept.has(one.from) && kept.has(one.to) && calls(one));
  const linked = new Set(chosen.flatMap((one) => [one.from, one.to]));
  return { nodes: graph.nodes.filter((node) => linked.has(node.id)), calls: chosen };
}

/// The same with a node a namespace; calls within one are not drawn.
export function grouped(graph: Graph): Graph {
  const of = new Map(graph.nodes.map((node) => [node.id, node.namespace || node.id]));
  const boxes = new Set(graph.nodes.filter((node) => node.namespace).map((node) => node.namespace));
  const parts = graph.calls.map((one) => ({
    from: of.get(one.from) ?? one.from, to: of.get(one.to) ?? one.to, source: "", rps: one.rps, p99: one.p99,
    // In proportion: what counts of requests is their share.
    requests: one.success === undefined ? 0 : one.rps, failures: one.rps * (100 - (one.success ?? 100)) / 100,
  }));
  const told = made(parts.filter((part) => part.from !== part.to), [], new Map());
  const secure = new Map<string, Call["secure"]>();
  for (const one of graph.calls) {
    const id = `${of.get(one.from)}>${of.get(one.to)}`;
    const before = secure.get(id);
    if (one.secure) secure.set(id, !before ? one.secure : before === one.secure ? before : "some");
  }
  for (const one of told.calls) one.secure = secure.get(one.id) ?? "";
  for (const node of told.nodes) {
    node.namespace = "";
    node.label = node.id;
    node.box = boxes.has(node.id);
  }
  return told;
}
