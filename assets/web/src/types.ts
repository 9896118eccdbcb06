// What the API answers, as far as the page reads it; keys are those of `src/api`.

export interface Finding {
  severity: "info" | "warning" | "error";
  code: string;
  message: string;
  hint?: string;
  path?: string;
  origin: { kind: string; namespace: string; name: string; file?: string; line?: number; column?: number };
}
export interface Problem { reason: string; message: string; hint?: string; findings?: Finding[] }
export interface About {
  context: string; place: string; flags: string; version: string; readOnly: boolean; inCluster: boolean;
}
export interface Version { version: string; startedUnixMs: number; revision: number; trustDomain: string }
export type Role = "viewer" | "operator" | "owner";

export interface StatsRow {
  service: string; version: string; source: string; route: string;
  requestsPerSecond: number; requests: number; successPercent?: number;
  latencyP50Ms?: number; latencyP95Ms?: number; latencyP99Ms?: number; mtlsPercent?: number;
  retries: number; timeouts: number; overflows: number; ejectedEndpoints?: number;
  tcpOpened: number; tcpSentBytes: number; tcpReceivedBytes: number;
}
export interface Stats { windowSeconds: number; atUnixMs: number; rows: StatsRow[] }

export interface Edge {
  source: string; destination: string; destinationWorkload: string; protocol: string;
  clientId: string; serverId: string; encrypted: boolean;
  security: "mutualTls" | "tls" | "applicationTls" | "plaintext";
  reason: string; tlsVersion: string; cipher: string; keyExchange: string;
  requestsPerSecond: number; requests: number; connectionsOpen: number;
}
export interface Edges { windowSeconds: number; atUnixMs: number; edges: Edge[] }

export interface Point {
  atUnixMs: number; requests: number; failures: number; retries?: number; timeouts?: number; overflows?: number;
  latencyP50Ms?: number; latencyP95Ms?: number; latencyP99Ms?: number;
}
export interface SeriesRow { service: string; version: string; source: string; route: string; points: Point[] }
export interface Series { stepSeconds: number; fromUnixMs: number; toUnixMs: number; rows: SeriesRow[] }

export interface Service {
  name: string; namespace: string; host: string; addresses: string[];
  ports: { name: string; port: number; target: string; protocol: string }[];
  ready: number; instances: number; versions: Record<string, number>; mtls: string;
}
export interface Endpoint {
  service: string; port: number; address: string; instance: string; version: string;
  health: "healthy" | "unhealthy" | "degraded" | "draining"; mtls: boolean; weight: number; ejectedBy?: Ejection[];
}
export interface Ejection { proxy: string; workload: string; reason: string; sinceUnixMs: number; untilUnixMs: number }
export interface Backend {
  cluster: string; service: string; subset: string; weight: number; sharePercent: number;
  measuredPercent?: number; ready: number; endpoints: number; invalid?: string;
}
export interface Route {
  gateway?: string; service: string; port: number; index: number; name: string; matches: string[]; action: string;
  backends: Backend[];
  mirrors?: { service: string; subset: string; percent: number; invalid?: string }[];
  faults?: { what: string; percent: number }[];
  timeoutMs?: number; retries: number; origin: string;
}
export interface Proxy {
  proxy: string; name: string; namespace: string; workload: string; identity?: string; client: string;
  version?: string; protocol: string; connectedSinceUnixMs: number; revisionAcked: number; synced: boolean;
  types: {
    type: string; resources: number; revisionSent?: number; revisionAcked: number; waiting: boolean;
    sentUnixMs?: number; ackedUnixMs?: number;
    rejected?: { reason: string; resources: string[]; atUnixMs: number; revision: number };
  }[];
}
export interface AuditEntry { atUnixMs: number; event: string; identity?: string; serial?: string; expiresUnixMs?: number }
export interface Trust { phase: string; roots: string[]; connected: number; notBelieving: string[]; notRenewed: string[] }
export interface Check {
  sections: { name: string; checks: { text: string; status: "ok" | "warning" | "failed"; detail: string; hint?: string }[] }[];
}

export type Outcome = "created" | "configured" | "unchanged" | "deleted";
export interface Resource {
  kind: string; namespace: string; name: string; createdUnixMs: number; changedUnixMs: number; revision: number;
  object: Record<string, unknown>;
}
/// What who started the dashboard may do to an object of a cluster, and what is lacking.
export interface Rights { change: boolean; delete: boolean; lacks: string }
export interface ObjectOutcome { kind: string; namespace: string; name: string; outcome: Outcome }
export interface Convergence { proxies: number; acknowledged: number; rejected: string[]; medianMs: number; lastMs: number }
export interface Applied { revision: number; objects: ObjectOutcome[]; findings: Finding[]; convergence: Convergence }
export interface FieldDiff { path: string; before?: unknown; after?: unknown }
export interface ObjectDiff extends ObjectOutcome { fields: FieldDiff[] }
export interface Diff {
  objects: ObjectDiff[]; proxies: { proxies: string[] }[]; unchangedProxies: number; findings: Finding[]; refused: boolean;
}
export interface HistoryEntry { revision: number; atUnixMs: number; who: string; what: string; objects: ObjectOutcome[]; changes?: ObjectDiff[] }

export interface Split {
  service: string; origin: string; changedUnixMs: number;
  versions: {
    version: string; weight: number; sharePercent: number; ready: number; measuredPercent?: number;
    requestsPerSecond: number; successPercent?: number; latencyP99Ms?: number;
  }[];
}
export interface Measure { metric: string; value?: number; bound?: number | string; baseline?: number; unit?: string; verdict: string; requests: number; different?: number; places?: { at: string; count: number }[] }
export interface Step { weight: number; mirror?: boolean; mirrorPercent?: number; state: string; startedUnixMs?: number; endedUnixMs?: number; measures: Measure[] }
export interface Rollout {
  service: string; namespace: string; stable: string; canary: string; strategy: string; phase: string; reason: string;
  step: number; steps: Step[]; weight: number; failures: number; maxFailures: number; intervalSeconds: number;
  startedUnixMs: number; updatedUnixMs: number; message: string;
}

export interface Call {
  atUnixMs: number; source: string; destination: string; service: string; version: string; method: string;
  authority: string; path: string; status: number; grpcStatus?: number; flags: string; durationMs: number;
  requestBytes: number; responseBytes: number; protocol: string; mtls: boolean; route: string; requestId: string;
  traceId?: string; headers?: Record<string, string>;
}
export interface TraceRow {
  traceId: string; rootService: string; name: string; startedUnixMs: number; durationMs: number;
  spans: number; errors: number; services: string[];
}
export interface Span {
  spanId: string; parentId?: string; service: string; workload: string; name: string; kind: string;
  startUnixUs: number; durationUs: number; error: boolean; tags: Record<string, string>;
}
export interface MatrixCell {
  from: string; to: string; verdict: "allowed" | "denied" | "asked"; audited: boolean; because: string; policies: string[];
}
export interface Matrix { callers: string[]; services: string[]; method: string; path: string; cells: MatrixCell[]; leftOut: number }
