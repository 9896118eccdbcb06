// Requests over all their hops, from what the control plane keeps of spans.
import { useState } from "preact/hooks";
import { url, useApi } from "../api";
import { ago, ms, stamp, word } from "../format";
import { ask, asked, go } from "../route";
import type { Span, TraceRow } from "../types";
import { A, Choice, Empty, Head, Mark, Panel, Ready, Table, Tag, Typed } from "../ui";

export function Traces() {
  const service = asked("service"), slow = asked("minDurationMs"), errors = asked("errors") === "true";
  const traces = useApi<{ traces: TraceRow[] }>(url("/traces", { service, minDurationMs: slow, errors: errors && "true", limit: 100 }), 5000);
  const [id, setId] = useState("");
  return (
    <>
      <Head title="Traces" command={`traces${service ? ` --service ${word(service)}` : ""}${slow ? ` --min-duration ${slow}ms` : ""}${errors ? " --errors" : ""}`}>
        <Typed label="Service" placeholder="Service" value={service} pick={(text) => ask({ service: text })} />
        <Typed label="Longer than, in milliseconds" placeholder="Longer than, ms" size={14} inputMode="numeric" value={slow} pick={(text) => ask({ minDurationMs: text.replace(/\D/g, "") })} />
        <Choice label="Which" value={errors ? "true" : ""} onPick={(value) => ask({ errors: value })} options={[["", "All"], ["true", "With errors"]]} />
        <form onSubmit={(event) => { event.preventDefault(); if (id.trim()) go(`/traces/${id.trim()}`); }}><input aria-label="Trace id" placeholder="Trace id" value={id} onInput={(event) => setId(event.currentTarget.value)} /></form>
      </Head>
      <Panel flush>
        <Ready of={traces}>{({ traces: list }) => {
          if (list.length === 0) return <Empty title="No trace fits">Requests are sampled; raise the rate with a Telemetry resource, or send one with a sampled <code>traceparent</code>.</Empty>;
          const most = Math.max(...list.map((one) => one.durationMs));
          return (
            <Table label="Traces" head={["Began", "Request", "Services", ["Spans", "num"], "Errors", ["Took", "num"], ""]}>
              {list.map((one) => (
                <tr>
                  <td class="nowrap" title={stamp(one.startedUnixMs)}>{ago(one.startedUnixMs)}</td>
                  <td><A href={`/traces/${one.traceId}`}>{one.rootService} {one.name}</A></td>
                  <td class="muted">{one.services.join(", ")}</td>
                  <td class="num">{one.spans}</td>
                  <td>{one.errors > 0 ? <Mark tone="bad">{one.errors}</Mark> : <span class="muted">none</span>}</td>
                  <td class="num">{ms(one.durationMs)}</td>
                  <td style={{ width: "120px" }}><svg class={one.errors > 0 ? "bar bad" : "bar"} style={{ marginTop: "7px" }} viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true"><rect width="100" height="6" class="rest" /><rect width={Math.max(1, 100 * one.durationMs / (most || 1))} height="6" /></svg></td>
                </tr>
              ))}
            </Table>
          );
        }}</Ready>
      </Panel>
    </>
  );
}

interface Line { span: Span; depth: number }

/// Parents before children, in the order in which they began; spans whose parent was not kept begin anew.
export function tree(spans: Span[]): Line[] {
  const known = new Map(spans.map((span) => [span.spanId, span]));
  const below = new Map<string, Span[]>();
  for (const span of [...spans].sort((a, b) => a.startUnixUs - b.startUnixUs)) {
    const parent = span.parentId && known.has(span.parentId) && span.parentId !== span.spanId ? span.parentId : "";
    below.set(parent, [...below.get(parent) ?? [], span]);
  }
  const out: Line[] = [];
  const seen = new Set<string>();
  const walk = (parent: string, depth: number): void => {
    for (const span of below.get(parent) ?? []) {
      if (seen.has(span.spanId)) continue;
      seen.add(span.spanId);
      out.push({ span, depth });
      walk(span.spanId, depth + 1);
    }
  };
  walk("", 0);
  // Spans that are each other's parents hang below nobody.
  for (const span of spans) if (!seen.has(span.spanId)) out.push({ span, depth: 0 });
  return out;
}

export function Trace({ id }: { id: string }) {
  const trace = useApi<{ traceId: string; spans: Span[] }>(`/traces/${encodeURIComponent(id)}`, 0);
  const [open, setOpen] = useState(asked("span"));
  return (
    <>
      <Head title={<span class="mono">{id}</span>} crumb={<A href="/traces">Traces</A>} command={`traces ${word(id)}`} />
      <Panel flush title="Spans" aside={trace.data && `${trace.data.spans.length} spans, ${new Set(trace.data.spans.map((span) => span.service)).size} services`}>
        <Ready of={trace}>{({ spans }) => {
          if (spans.length === 0) return <Empty title="No span of this trace is kept" />;
          const from = Math.min(...spans.map((span) => span.startUnixUs));
          const whole = Math.max(1, ...spans.map((span) => span.startUnixUs + span.durationUs - from));
          return (
            <div class="waterfall">
              {tree(spans).map(({ span, depth }) => {
                const left = 100 * (span.startUnixUs - from) / whole, width = Math.max(0.3, 100 * span.durationUs / whole);
                const shown = open === span.spanId;
                return (
                  <>
                    <button type="button" class={span.error ? "line error" : "line"} aria-expanded={shown} onClick={() => { setOpen(shown ? "" : span.spanId); ask({ span: shown ? "" : span.spanId }); }}>
                      <span class="label" style={{ paddingLeft: `${Math.min(depth, 12) * 14}px` }}>{span.error && <><Tag tone="bad">failed</Tag> </>}<span class="strong">{span.service}</span> <span class="muted">{span.name} ({span.kind.toLowerCase()})</span></span>
                      <svg role="img" aria-label={`begins after ${ms((span.startUnixUs - from) / 1000)}, takes ${ms(span.durationUs / 1000)}`}>
                        <rect x={`${left}%`} y="6" width={`${width}%`} height="8" rx="2" />
                      </svg>
                      <span class="num">{ms(span.durationUs / 1000)}</span>
                    </button>
                    {shown && <dl class="tags-of"><dt>workload</dt><dd>{span.workload}</dd><dt>span</dt><dd class="mono">{span.spanId}</dd>{Object.entries(span.tags).map(([key, value]) => <><dt>{key}</dt><dd class="mono">{value}</dd></>)}</dl>}
                  </>
                );
              })}
            </div>
          );
        }}</Ready>
      </Panel>
    </>
  );
}
