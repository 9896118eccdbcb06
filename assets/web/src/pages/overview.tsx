// How the mesh is, at one look.
import { url, useApi } from "../api";
import { Spark } from "../chart";
import { ago, count, health, ms, percent, rate, span } from "../format";
import { even, perSecond, success, sum, useSeries } from "../series";
import type { AuditEntry, Edges, Finding, Proxy, Series, Service, Stats, StatsRow, Trust, Version } from "../types";
import { A, Choice, Empty, Findings, Head, Mark, Panel, Ready, Success, Table } from "../ui";
import { ask, asked } from "../route";

export const WINDOWS: [string, string][] = [["60", "1 min"], ["300", "5 min"], ["900", "15 min"], ["3600", "1 h"]];

interface Total { rps: number; success?: number; p99?: number; slowest?: string; mtls?: number }

function total(rows: StatsRow[]): Total {
  let requests = 0, good = 0, secure = 0, rps = 0;
  let slowest: StatsRow | undefined;
  for (const row of rows) {
    requests += row.requests;
    rps += row.requestsPerSecond;
    good += row.requests * (row.successPercent ?? 100) / 100;
    secure += row.requests * (row.mtlsPercent ?? 0) / 100;
    if ((row.latencyP99Ms ?? -1) > (slowest?.latencyP99Ms ?? -1)) slowest = row;
  }
  return {
    rps, success: requests ? 100 * good / requests : undefined, mtls: requests ? 100 * secure / requests : undefined,
    p99: slowest?.latencyP99Ms, slowest: slowest?.service,
  };
}

export const command = (text: string, window: string): string => window === "60" ? text : `${text} --window ${span(Number(window) * 1000)}`;

export function Overview() {
  const window = asked("window") || "60";
  const stats = useApi<Stats>(url("/stats", { window, by: "service" }), 3000);
  const edges = useApi<Edges>(url("/edges", { window: Math.min(Number(window), 900) }), 5000);
  const proxies = useApi<Proxy[]>("/proxies");
  const findings = useApi<Finding[]>("/findings", 10_000);
  const services = useApi<Service[]>("/services", 10_000);
  const long = Math.max(900, Number(window));
  const series = useSeries({ window: long, step: Math.max(10, Math.round(long / 90)), by: "service" });
  const sums = stats.data && total(stats.data.rows);
  const all = series.data && even(series.data, sum(series.data.rows));
  const step = series.data?.stepSeconds ?? 1;
  const plain = edges.data?.edges.filter((edge) => !edge.encrypted).length;
  return (
    <>
      <Head title="Overview" command={command("stats", window)}>
        <Choice label="Window" options={WINDOWS} value={window} onPick={(value) => ask({ window: value === "60" ? undefined : value })} />
      </Head>
      <div class="tiles">
        <Tile name="Requests" value={rate(sums?.rps)} more={`${count(services.data?.length)} services`}><Spark values={all?.map((point) => perSecond(point, step)) ?? []} /></Tile>
        <Tile name="Success" value={percent(sums?.success)} tone={health(sums?.success)} more="not 5xx, gRPC OK"><Spark values={all?.map(success) ?? []} low={Math.min(99, ...(all?.map((point) => success(point) ?? 100) ?? []))} high={100} ink="ok" /></Tile>
        <Tile name="Slowest p99" value={ms(sums?.p99)} more={sums?.slowest ? <A href={`/service/${sums.slowest}`}>{sums.slowest}</A> : "no traffic"} />
        <Tile name="Over mTLS" value={percent(sums?.mtls)} more={plain === undefined ? " " : plain === 0 ? "every call is encrypted" : <A href="/graph?insecure=1">{plain} {plain === 1 ? "call" : "calls"} in plaintext</A>} />
        <Proxied proxies={proxies.data} />
      </div>
      <div class="grid wide-side">
        <Panel title="Services" flush aside={<A href="/services">all services</A>}>
          <Ready of={stats}>{(data) => <ServiceRows rows={data.rows} services={services.data ?? []} series={series.data} />}</Ready>
        </Panel>
        <div class="grid">
          <Certificates proxies={proxies.data} />
          <Panel title="Findings" flush aside={<A href="/config">configuration</A>}>
            <Ready of={findings} rows={2}>{(list) => list.length === 0
              ? <p class="findings"><Mark tone="ok">The configuration can be honoured as it is written</Mark></p>
              : <Findings list={list.slice(0, 8)} />}</Ready>
          </Panel>
        </div>
      </div>
    </>
  );
}

function Tile({ name, value, more, tone, children }: { name: string; value: string; more?: preact.ComponentChildren; tone?: string; children?: preact.ComponentChildren }) {
  return (
    <div class="tile">
      <span class="name">{name}</span>
      <span class="value" style={tone === "bad" || tone === "warn" ? { color: `var(--${tone})` } : undefined}>{value}</span>
      <span class="more">{more}</span>
      {children}
    </div>
  );
}

function Proxied({ proxies }: { proxies: Proxy[] | undefined }) {
  const behind = proxies?.filter((proxy) => !proxy.synced) ?? [];
  const versions = new Map<string, number>();
  for (const proxy of proxies ?? []) {
    const name = `${proxy.client} ${proxy.version ?? ""}`.trim();
    versions.set(name, (versions.get(name) ?? 0) + 1);
  }
  const skew = [...versions].sort((a, b) => b[1] - a[1]).map(([name, n]) => versions.size > 1 ? `${n} × ${name}` : name).slice(0, 3).join(", ");
  return (
    <div class="tile">
      <span class="name">Proxies</span>
      <span class="value">{proxies ? `${proxies.length - behind.length} of ${proxies.length}` : "–"}</span>
      <span class="more">{behind.length > 0 ? <A href="/proxies"><Mark tone="warn">{behind.length} not in sync</Mark></A> : "in sync"}</span>
      <span class="more">{skew || " "}</span>
    </div>
  );
}

/// Services with traffic first, the worst of them on top.
export function ServiceRows({ rows, services, series }: { rows: StatsRow[]; services: Service[]; series?: Series }) {
  const known = new Map(rows.map((row) => [row.service, row]));
  for (const service of services) {
    const name = `${service.name}.${service.namespace}`;
    if (!known.has(name)) known.set(name, { service: name, requestsPerSecond: 0, requests: 0 } as StatsRow);
  }
  const about = new Map(services.map((service) => [`${service.name}.${service.namespace}`, service]));
  const list = [...known.values()].sort((a, b) =>
    Number(b.requests > 0) - Number(a.requests > 0) || (a.successPercent ?? 101) - (b.successPercent ?? 101) || a.service.localeCompare(b.service));
  if (list.length === 0) return <Empty title="No services yet">Apply a Service, or run <code>meshctl up examples/bookinfo</code>.</Empty>;
  return (
    <Table label="Services" head={["Service", ["Ready", "num"], ["Requests", "num"], "", "Success", ["p50", "num"], ["p95", "num"], ["p99", "num"]]}>
      {list.map((row) => {
        const points = series?.rows.filter((one) => one.service === row.service) ?? [];
        const line = series ? even(series, sum(points)).map((point) => perSecond(point, series.stepSeconds)) : [];
        const service = about.get(row.service);
        return (
          <tr key={row.service}>
            <td class="nowrap"><A href={`/service/${row.service}`}>{row.service}</A></td>
            <td class="num">{service ? <span style={service.ready < service.instances ? { color: "var(--warn)" } : undefined}>{service.ready}/{service.instances}</span> : "–"}</td>
            <td class="num">{rate(row.requestsPerSecond)}</td>
            <td style={{ width: "108px" }}><Spark values={line} /></td>
            <td><Success value={row.successPercent} /></td>
            <td class="num">{ms(row.latencyP50Ms)}</td>
            <td class="num">{ms(row.latencyP95Ms)}</td>
            <td class="num">{ms(row.latencyP99Ms)}</td>
          </tr>
        );
      })}
    </Table>
  );
}

/// The last certificate of every identity that a connected proxy has.
export function lastCertificates(audit: AuditEntry[], proxies: Proxy[]): Map<string, AuditEntry> {
  const live = new Set(proxies.map((proxy) => proxy.identity));
  const last = new Map<string, AuditEntry>();
  for (const entry of audit) {
    if (entry.event !== "certificateIssued" || !entry.identity || !live.has(entry.identity)) continue;
    if ((last.get(entry.identity)?.atUnixMs ?? 0) <= entry.atUnixMs) last.set(entry.identity, entry);
  }
  return last;
}

function Certificates({ proxies }: { proxies: Proxy[] | undefined }) {
  const audit = useApi<AuditEntry[]>("/audit?limit=1000", 30_000);
  const trust = useApi<Trust>("/trust", 30_000);
  const version = useApi<Version>("/version", 30_000);
  const last = [...lastCertificates(audit.data ?? [], proxies ?? []).values()].sort((a, b) => (a.expiresUnixMs ?? 0) - (b.expiresUnixMs ?? 0));
  const first = last[0];
  const soon = first?.expiresUnixMs !== undefined && first.expiresUnixMs < Date.now() + 3_600_000;
  return (
    <Panel title="Trust and control plane" aside={<A href="/proxies">certificates</A>}>
      <dl>
        <dt>Next to expire</dt><dd>{first?.expiresUnixMs ? <Mark tone={soon ? "warn" : "ok"}>{ago(first.expiresUnixMs)}, {first.identity?.split("/").at(-1)}</Mark> : audit.data ? "no certificate in the log" : "–"}</dd>
        <dt>Root</dt><dd>{trust.data ? <><Mark tone={trust.data.notBelieving.length ? "warn" : "ok"}>{trust.data.phase}</Mark> <code title={trust.data.roots.join("\n")}>{trust.data.roots[0]?.slice(0, 12)}</code></> : "–"}</dd>
        <dt>Trust domain</dt><dd>{version.data?.trustDomain ?? "–"}</dd>
        <dt>Control plane</dt><dd>{version.data ? `${version.data.version}, up ${span(Date.now() - version.data.startedUnixMs)}` : "–"}</dd>
        <dt>Revision</dt><dd>{version.data ? <A href="/history">{version.data.revision}</A> : "–"}</dd>
      </dl>
    </Panel>
  );
}
