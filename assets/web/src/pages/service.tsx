// One service: how it does, where its requests go, who calls it, and what protects it.
import { url, useApi } from "../api";
import { Chart } from "../chart";
import { ago, count, ms, percent, rate, span, split, stamp } from "../format";
import { even, perSecond, success, sum, useSeries } from "../series";
import type { Edges, Endpoint, Resource, Route, Service, Stats, StatsRow } from "../types";
import { A, Bar, Choice, Empty, Failure, Head, Loading, Mark, Panel, Ready, Success, Table, Tag } from "../ui";
import { ask, asked } from "../route";
import { command, WINDOWS } from "./overview";

export function ServicePage({ name }: { name: string }) {
  const window = asked("window") || "300";
  const { namespace } = split(name);
  const query = { service: name, namespace };
  const whole = useApi<Stats>(url("/stats", { window, ...query, by: "service" }), 3000);
  const versions = useApi<Stats>(url("/stats", { window, ...query, by: "version" }), 3000);
  const callers = useApi<Stats>(url("/stats", { window, ...query, by: "source" }), 3000);
  const measured = useApi<Stats>(url("/stats", { window, ...query, by: "backend" }), 5000);
  const routes = useApi<Route[]>(url("/routes", query), 5000);
  const endpoints = useApi<Endpoint[]>(url("/endpoints", query), 5000);
  const edges = useApi<Edges>(url("/edges", { window: Math.min(Number(window), 900), to: name, namespace }), 5000);
  const services = useApi<Service[]>(url("/services", { namespace }), 15_000);
  const rules = useApi<Resource[]>("/resources/DestinationRule", 15_000);
  const seconds = Number(window);
  const series = useSeries({ window: seconds, step: Math.max(1, Math.ceil(seconds / 150)), service: name, by: "service" });
  const service = services.data?.find((one) => `${one.name}.${one.namespace}` === name);
  const row = whole.data?.rows[0];
  if (whole.error?.status === 404) return <><Head title={name} crumb={<A href="/services">Services</A>} /><Panel><Failure error={whole.error} /></Panel></>;
  const ways = routes.data?.filter((route) => !route.gateway) ?? [];
  return (
    <>
      <Head title={name} crumb={<A href="/services">Services</A>} command={command(`stats ${name} --by version`, window)}>
        <A class="button" href={`/graph?focus=${name}`}>In the graph</A>
        <Choice label="Window" options={WINDOWS} value={window} onPick={(value) => ask({ window: value })} />
      </Head>
      <Signals row={row} service={service} />
      <Charts series={series.data} waiting={!series.data && !series.error} />
      <Panel title="Versions" flush>
        <Ready of={versions} rows={3}>{(data) => data.rows.length === 0 ? <Empty title="No requests in this window" /> : <Signed rows={data.rows} key_="Version" of={(one) => one.version || "unknown"} total={row?.requests ?? 0} />}</Ready>
      </Panel>
      <Panel title="Routes and backends" flush aside="as a workload of the mesh sees them">
        <Ready of={routes} rows={3}>{() => ways.length === 0 ? <Empty title="No routes" /> : (
          <Table label="Routes and backends" head={["Route", "Matches", "Backend", ["Weight", "num"], "Measured", ["Ready", "num"], "Retries and timeout", "From"]}>
            {ways.flatMap((route) => route.backends.length === 0
              ? [<tr><td>{route.name || route.index}</td><td><Conditions of={route.matches} /></td><td colSpan={4}>{route.action}</td><td><Limits of={route} /></td><td><Source text={route.origin} /></td></tr>]
              : route.backends.map((backend, at) => (
                <tr>
                  <td>{at === 0 ? route.name || `${route.index}` : ""}</td>
                  <td>{at === 0 ? <Conditions of={route.matches} /> : ""}</td>
                  <td>{backend.invalid ? <Mark tone="bad">{backend.service} {backend.subset}: {backend.invalid}</Mark> : <><A href={`/service/${backend.service}`}>{backend.service}</A> {backend.subset && <Tag>{backend.subset}</Tag>}</>}</td>
                  <td class="num">{backend.weight} <span class="muted">({percent(backend.sharePercent)})</span></td>
                  <td style={{ minWidth: "110px" }}>{backend.measuredPercent === undefined ? <span class="muted">no traffic</span> : <><Bar share={backend.measuredPercent} /> {percent(backend.measuredPercent)}</>}</td>
                  <td class="num"><span style={backend.ready < backend.endpoints ? { color: "var(--warn)" } : undefined}>{backend.ready}/{backend.endpoints}</span></td>
                  <td>{at === 0 ? <Limits of={route} /> : ""}</td>
                  <td>{at === 0 ? <Source text={route.origin} /> : ""}</td>
                </tr>
              )))}
          </Table>
        )}</Ready>
      </Panel>
      <Panel title="Measured by route and backend" flush aside="as the callers saw it; without a version nobody was reached">
        <Ready of={measured} rows={3}>{(data) => data.rows.length === 0 ? <Empty title="No requests in this window" /> : (
          <Table label="Measured by route and backend" head={["Route", "Backend", ["Requests", "num"], ["Share", "num"], "Success", ["p50", "num"], ["p99", "num"], ["Retries", "num"], ["Timed out", "num"], ["Refused by breakers", "num"]]}>
            {data.rows.map((one) => <tr><td>{one.route || <span class="muted">from outside the mesh</span>}</td><td>{one.version ? <Tag>{one.version}</Tag> : "–"}</td><td class="num">{rate(one.requestsPerSecond)}</td><td class="num">{row?.requests ? percent(100 * one.requests / row.requests) : "–"}</td><td><Success value={one.successPercent} /></td><td class="num">{ms(one.latencyP50Ms)}</td><td class="num">{ms(one.latencyP99Ms)}</td><Bad n={one.retries} /><Bad n={one.timeouts} /><Bad n={one.overflows} /></tr>)}
          </Table>
        )}</Ready>
      </Panel>
      <Panel title="Endpoints" flush>
        <Ready of={endpoints} rows={3}>{(list) => list.length === 0 ? <Empty title="No endpoints">Nothing is behind this service; requests are answered with 503.</Empty> : (
          <Table label="Endpoints" head={["Instance", "Address", "Version", "Health", ["Weight", "num"]]}>
            {list.map((one) => <tr><td>{one.instance}</td><td class="mono nowrap">{one.address}</td><td>{one.version || "–"}</td><td><Mark tone={one.health === "healthy" ? "ok" : one.health === "unhealthy" ? "bad" : "warn"}>{one.health}</Mark>{one.ejectedBy && <> <Mark tone="bad">ejected</Mark></>}</td><td class="num">{one.weight}</td></tr>)}
          </Table>
        )}</Ready>
      </Panel>
      <Ejected endpoints={endpoints.data ?? []} />
      <div class="grid two">
        <Panel title="Callers" flush aside={<A href={`/authz?to=${name}`}>who may call</A>}>
          <Ready of={callers} rows={3}>{(data) => data.rows.length === 0 ? <Empty title="Nobody called in this window" /> : (
            <Table label="Callers" head={["Caller", ["Requests", "num"], "Success", ["p99", "num"], "Protected by"]}>
              {data.rows.map((one) => <tr><td>{one.source || "outside of the mesh"}</td><td class="num">{rate(one.requestsPerSecond)}</td><td><Success value={one.successPercent} /></td><td class="num">{ms(one.latencyP99Ms)}</td><td><Protected edges={edges.data} source={one.source} /></td></tr>)}
            </Table>
          )}</Ready>
        </Panel>
        <Panel title="Breakers, ejection and balancing" flush>
          <Ready of={rules} rows={3}>{(list) => <Policies rules={list} service={service} name={name} row={row} />}</Ready>
        </Panel>
      </div>
    </>
  );
}

const Bad = ({ n }: { n: number }) => <td class="num"><span style={n ? { color: "var(--warn)" } : undefined}>{count(n)}</span></td>;

/// Who leaves which endpoint out, why and how long yet; nothing where nobody does.
function Ejected({ endpoints }: { endpoints: Endpoint[] }) {
  const rows = endpoints.flatMap((one) => (one.ejectedBy ?? []).map((by) => ({ one, by })));
  if (rows.length === 0) return null;
  return (
    <Panel title="Ejected endpoints" flush aside="left out by outlier detection of single callers; others may still call them">
      <Table label="Ejected endpoints" head={["Instance", "Address", "Version", "Left out by", "Why", "Since", "Until"]}>
        {rows.map(({ one, by }) => <tr><td>{one.instance}</td><td class="mono nowrap">{one.address}</td><td>{one.version || "–"}</td><td>{by.workload || by.proxy}{by.workload && <> <span class="muted">{by.proxy}</span></>}</td><td><Mark tone="bad">{REASONS[by.reason] ?? by.reason}</Mark></td><td class="nowrap" title={stamp(by.sinceUnixMs)}>{ago(by.sinceUnixMs)}</td><td class="nowrap" title={stamp(by.untilUnixMs)}>{by.untilUnixMs > Date.now() ? `in ${span(by.untilUnixMs - Date.now())}` : "now"}</td></tr>)}
      </Table>
    </Panel>
  );
}
/// Envoy's names for kinds of ejection.
const REASONS: Record<string, string> = {
  consecutive_5xx: "5xx in a row", consecutive_gateway_failure: "502 to 504 in a row", consecutive_local_origin_failure: "not reached in a row",
  success_rate: "success below the others'", local_origin_success_rate: "reached less than the others", failure_percentage: "too many failures",
  local_origin_failure_percentage: "too often not reached", response_time: "too slow",
};

function Signals({ row, service }: { row: StatsRow | undefined; service: Service | undefined }) {
  const tile = (name: string, value: preact.ComponentChildren, more?: preact.ComponentChildren) => <div class="tile"><span class="name">{name}</span><span class="value">{value}</span><span class="more">{more ?? " "}</span></div>;
  return (
    <div class="tiles">
      {tile("Requests", rate(row?.requestsPerSecond ?? 0), `${count(row?.requests ?? 0)} in the window`)}
      {tile("Success", percent(row?.successPercent), row?.successPercent === undefined ? "no traffic" : undefined)}
      {tile("p50", ms(row?.latencyP50Ms))}
      {tile("p99", ms(row?.latencyP99Ms), `p95 ${ms(row?.latencyP95Ms)}`)}
      {tile("Retries", count(row?.retries ?? 0), `${count(row?.timeouts ?? 0)} timed out, ${count(row?.overflows ?? 0)} refused by breakers`)}
      {tile("Instances", service ? `${service.ready}/${service.instances}` : "–", row?.ejectedEndpoints ? <Mark tone="bad">{row.ejectedEndpoints} ejected by callers</Mark> : service ? `${service.ports.map((port) => `${port.port} ${port.protocol}`).join(", ")}; mTLS ${service.mtls}` : undefined)}
    </div>
  );
}

function Charts({ series, waiting }: { series: ReturnType<typeof useSeries>["data"]; waiting: boolean }) {
  if (waiting) return <div class="grid three">{[1, 2, 3].map(() => <Panel title=" "><div style={{ minHeight: "174px" }}><Loading rows={4} /></div></Panel>)}</div>;
  const points = series ? even(series, series.rows.length === 1 ? series.rows[0]?.points ?? [] : sum(series.rows)) : [];
  const times = points.map((point) => point.atUnixMs);
  const step = series?.stepSeconds ?? 1;
  return (
    <div class="grid three">
      <Panel title="Requests a second"><Chart label="Requests a second" times={times} format={count} lines={[{ label: "requests", ink: "accent", fill: true, values: points.map((point) => perSecond(point, step)) }, { label: "failures", ink: "bad", values: points.map((point) => point.failures / step) }]} /></Panel>
      <Panel title="Success"><Chart label="Success" times={times} format={(value) => percent(value)} most={100} lines={[{ label: "success", ink: "ok", values: points.map(success) }]} /></Panel>
      <Panel title="Latency"><Chart label="Latency" times={times} format={ms} lines={[{ label: "p50", ink: "p50", values: points.map((point) => point.latencyP50Ms ?? null) }, { label: "p95", ink: "p95", values: points.map((point) => point.latencyP95Ms ?? null) }, { label: "p99", ink: "p99", values: points.map((point) => point.latencyP99Ms ?? null) }]} /></Panel>
    </div>
  );
}

function Signed({ rows, key_, of, total }: { rows: StatsRow[]; key_: string; of: (row: StatsRow) => string; total: number }) {
  return (
    <Table label={key_} head={[key_, ["Requests", "num"], ["Share", "num"], "Success", ["p50", "num"], ["p99", "num"], ["Retries", "num"]]}>
      {rows.map((row) => <tr><td>{of(row)}</td><td class="num">{rate(row.requestsPerSecond)}</td><td class="num">{total ? percent(100 * row.requests / total) : "–"}</td><td><Success value={row.successPercent} /></td><td class="num">{ms(row.latencyP50Ms)}</td><td class="num">{ms(row.latencyP99Ms)}</td><td class="num">{count(row.retries ?? 0)}</td></tr>)}
    </Table>
  );
}

const Conditions = ({ of }: { of: string[] }) => of.length === 0 ? <span class="muted">everything</span> : <div class="tags">{of.map((one) => <Tag>{one}</Tag>)}</div>;
function Limits({ of }: { of: Route }) {
  return (
    <div class="tags">
      <Tag>{of.retries === 0 ? "no retries" : `${of.retries} ${of.retries === 1 ? "retry" : "retries"}`}</Tag>
      <Tag>{of.timeoutMs === undefined ? "no timeout" : `timeout ${ms(of.timeoutMs)}`}</Tag>
      {of.faults?.map((fault) => <Tag tone="warn">{fault.what} of {percent(fault.percent)}</Tag>)}
      {of.mirrors?.map((mirror) => <Tag tone="info">mirror {percent(mirror.percent)} to {mirror.subset || mirror.service}</Tag>)}
    </div>
  );
}

/// `FILE:LINE:COLUMN KIND NAMESPACE/NAME` as a link to the object.
function Source({ text }: { text: string }) {
  const found = /(?:^| )([A-Z]\w+) (?:([^/ ]+)\/)?([^/ ]+)$/.exec(text);
  if (!found) return <span class="muted">{text || "default"}</span>;
  const [, kind, namespace, name] = found;
  return <A href={`/config/${kind}/${namespace ?? "-"}/${name}`} title={text}>{kind} {name}</A>;
}

function Protected({ edges, source }: { edges: Edges | undefined; source: string }) {
  const edge = edges?.edges.find((one) => one.source === source);
  if (!edge) return <span class="muted">–</span>;
  return edge.security === "mutualTls" ? <Mark tone="ok">mTLS</Mark> : edge.encrypted ? <Mark tone="info">TLS</Mark> : <Mark tone="warn">plaintext{edge.reason ? ` (${edge.reason})` : ""}</Mark>;
}

type Json = Record<string, unknown>;
const at = (value: unknown, path: string): unknown => path.split(".").reduce<unknown>((one, key) => (one as Json | undefined)?.[key], value);

/// What DestinationRules of this host say, field by field in the words of the rule.
function Policies({ rules, service, name, row }: { rules: Resource[]; service: Service | undefined; name: string; row: StatsRow | undefined }) {
  const names = new Set([service?.host, name, service?.name].filter(Boolean));
  const mine = rules.filter((rule) => {
    const host = String(at(rule.object, "spec.host") ?? "");
    return names.has(host) && (host !== service?.name || rule.namespace === service?.namespace);
  });
  const parts: [string, string][] = [["trafficPolicy.loadBalancer", "Balancing"], ["trafficPolicy.connectionPool.tcp", "Connections"], ["trafficPolicy.connectionPool.http", "Requests"], ["trafficPolicy.outlierDetection", "Ejection"], ["trafficPolicy.tls", "TLS"]];
  const said = mine.flatMap((rule) => {
    const spec = rule.object["spec"];
    const subsets = (at(spec, "subsets") as Json[] | undefined) ?? [];
    return [spec, ...subsets].flatMap((part) => parts.flatMap(([path, label]) => {
      const value = at(part, path);
      const subset = part === spec ? "" : String(at(part, "name") ?? "");
      return value === undefined ? [] : [{ rule, label: subset ? `${label} of ${subset}` : label, value }];
    }));
  });
  return (
    <div style={{ padding: "4px 16px 14px" }}>
      <dl>
        <dt>Refused by breakers</dt><dd>{row?.overflows ? <Mark tone="warn">{count(row.overflows)} in the window</Mark> : <Mark tone="ok">none in the window</Mark>}</dd>
        <dt>Timed out</dt><dd>{row?.timeouts ? <Mark tone="warn">{count(row.timeouts)} in the window</Mark> : <Mark tone="ok">none in the window</Mark>}</dd>
        {said.map((one) => <><dt>{one.label}</dt><dd><div class="tags">{flat(one.value).map(([key, value]) => <Tag>{key} {value}</Tag>)}</div></dd></>)}
        {said.length === 0 && <><dt>Rules</dt><dd class="muted">No DestinationRule sets a policy for this host; defaults apply.</dd></>}
        {mine.length > 0 && <><dt>Written in</dt><dd>{mine.map((rule) => <A href={`/config/${rule.kind}/${rule.namespace}/${rule.name}`}>{rule.kind} {rule.name} </A>)}</dd></>}
      </dl>
    </div>
  );
}
function flat(value: unknown, path = ""): [string, string][] {
  if (typeof value !== "object" || value === null) return [[path, String(value)]];
  return Object.entries(value).flatMap(([key, inner]) => flat(inner, path ? `${path}.${key}` : key));
}
