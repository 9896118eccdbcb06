// Who calls whom, now and in the hours that are kept.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { has, url, useApi } from "../api";
import { Spark } from "../chart";
import { clock, health, ms, percent, rate, span, stamp } from "../format";
import type { Answer, Question } from "../graph/layout.worker";
import { around, grouped, live, moments, only, past, type Graph } from "../graph/model";
import { HEIGHT, View, widthOf, type Picked } from "../graph/view";
import { ask, asked } from "../route";
import { even, perSecond, sum, useSeries } from "../series";
import type { Edges, Series, Stats } from "../types";
import { A, Choice, Empty, Failure, Head, Loading, Mark, Success } from "../ui";

/// Nodes from which on namespaces are shown first.
const MANY = 60;
const BACK: Record<string, [number, number]> = { "900": [900, 10], "3600": [3600, 30], "21600": [21_600, 300], "86400": [86_400, 900], "604800": [604_800, 3600] };

export function GraphPage() {
  const back = asked("replay");
  const window = asked("window") || "60";
  const [length, step] = BACK[back] ?? [0, 0];
  const edges = useApi<Edges>(url("/edges", { window: back ? 900 : window }), 4000);
  const stats = useApi<Stats>(back ? undefined : url("/stats", { window, by: "source" }), 3000);
  const series = useApi<Series>(back ? url("/series", { window: length, step, by: "source" }) : undefined, 0);
  const times = useMemo(() => series.data ? moments(series.data) : [], [series.data]);
  const [moment, setMoment] = useState(0);
  const [playing, play] = useState(false);
  const at = Math.min(moment, times.length - 1);
  useEffect(() => { setMoment(times.length - 1); }, [times]);
  useEffect(() => {
    if (!playing || times.length === 0) return;
    const timer = setInterval(() => setMoment((now) => {
      if (now + 1 >= times.length) play(false);
      return Math.min(now + 1, times.length - 1);
    }), 350);
    return () => clearInterval(timer);
  }, [playing, times]);

  const focus = asked("focus"), namespace = asked("namespace"), insecure = asked("insecure") === "1";
  const picked: Picked = asked("edge") ? { call: asked("edge") } : asked("node") ? { node: asked("node") } : {};
  const whole: Graph | undefined = useMemo(() => {
    if (!edges.data) return undefined;
    if (!back) return stats.data && live(edges.data.edges, stats.data.rows);
    const time = times[at];
    return series.data && (time === undefined ? { nodes: [], calls: [] } : past(series.data, edges.data.edges, time));
  }, [edges.data, stats.data, series.data, times, at, back]);
  const spaces = [...new Set(whole?.nodes.map((node) => node.namespace).filter(Boolean))].sort();
  // A drawing of hundreds is a texture; of namespaces it says something.
  const many = (whole?.nodes.length ?? 0) > MANY && spaces.length > 1 && !focus && !namespace;
  const together = !namespace && (asked("group") || (many ? "namespace" : "service")) === "namespace";
  const graph = useMemo(() => {
    if (!whole) return undefined;
    const near = focus ? around(whole, focus) : whole;
    const chosen = only(near, (call) => !insecure || call.secure === "none" || call.secure === "some", (node) => !namespace || node.namespace === namespace || node.namespace === "");
    return together ? grouped(chosen) : chosen;
  }, [whole, focus, namespace, insecure, together]);
  const pick = (chosen: Picked): void => ask({ node: chosen.node, edge: chosen.call });
  const error = edges.error ?? stats.error ?? series.error;
  return (
    <>
      <Head title="Graph" command={`edges${insecure ? " --insecure" : ""}${window === "60" || back ? "" : ` --window ${span(Number(window) * 1000)}`}${focus ? ` ${focus}` : ""}`}>
        {focus && <button type="button" onClick={() => ask({ focus: undefined })}>around {focus} ✕</button>}
        {spaces.length > 1 && (
          <select aria-label="What is drawn" value={together ? "*" : namespace} onChange={(event) => {
            const value = event.currentTarget.value;
            ask({ group: value === "*" ? "namespace" : value ? undefined : "service", namespace: value === "*" ? undefined : value, node: undefined, edge: undefined });
          }}>
            <option value="">all services</option>
            <option value="*">namespaces</option>
            {spaces.map((space) => <option value={space}>services of {space}</option>)}
          </select>
        )}
        <Choice label="Calls" value={insecure ? "1" : ""} onPick={(value) => ask({ insecure: value })} options={[["", "All calls"], ["1", "Plaintext"]]} />
        {!back && <Choice label="Window" value={window} onPick={(value) => ask({ window: value })} options={[["10", "10 s"], ["60", "1 min"], ["900", "15 min"]]} />}
        {has.value.series && (
          <select aria-label="Time" value={back} onChange={(event) => { play(false); ask({ replay: event.currentTarget.value }); }}>
            <option value="">live</option>
            <option value="900">replay 15 min</option>
            <option value="3600">replay 1 h</option>
            <option value="21600">replay 6 h</option>
            <option value="86400">replay 24 h</option>
            <option value="604800">replay 7 days</option>
          </select>
        )}
      </Head>
      {!graph && error ? <Failure error={error} retry={() => { edges.reload(); stats.reload(); }} /> : (
        <div class="stage">
          <div class="graph">{graph ? graph.nodes.length > 0 ? <Drawn graph={graph} picked={picked} pick={pick} /> : <Empty title={insecure ? "No call is in plaintext" : "No calls in this window"}>{insecure ? "Every connection that was seen is encrypted." : "Calls between services appear here as soon as there are any."}</Empty> : <Loading />}</div>
          {graph && (picked.node || picked.call) && <Side key={picked.node ?? picked.call} graph={graph} picked={picked} close={() => pick({})} />}
        </div>
      )}
      {back && times.length > 0 && (
        <div class="replay">
          <button type="button" onClick={() => { if (at + 1 >= times.length) setMoment(0); play(!playing); }}>{playing ? "Pause" : "Play"}</button>
          <input type="range" aria-label="Moment" aria-valuetext={stamp(times[at] ?? 0)} min={0} max={times.length - 1} value={at} onInput={(event) => { play(false); setMoment(Number(event.currentTarget.value)); }} />
          <span class="nowrap">{length > 20_000 ? stamp(times[at] ?? 0) : clock(times[at] ?? 0)}</span>
        </div>
      )}
    </>
  );
}

function Drawn({ graph, picked, pick }: { graph: Graph; picked: Picked; pick: (picked: Picked) => void }) {
  const svg = useRef<SVGSVGElement>(null);
  const view = useRef<View>(undefined);
  const worker = useRef<Worker>(undefined);
  const drawn = useRef("");
  const now = useRef(graph);
  const onPick = useRef(pick);
  now.current = graph;
  onPick.current = pick;
  // What is where depends on who calls whom, and on nothing that changes every second.
  const key = `${graph.nodes.map((node) => node.id).join()}|${graph.calls.map((call) => call.id).join()}`;
  useEffect(() => {
    if (!svg.current) return;
    const made = new View(svg.current, (chosen) => onPick.current(chosen));
    view.current = made;
    const thread = new Worker("/layout.js", { type: "module" });
    worker.current = thread;
    thread.onmessage = (event: MessageEvent<Answer>) => {
      const first = drawn.current === "";
      drawn.current = event.data.key;
      made.draw(now.current, event.data, first || !same(event.data.key, first));
    };
    return () => {
      thread.terminate();
      made.destroy();
    };
  }, []);
  const count = useRef(0);
  const same = (_key: string, first: boolean): boolean => {
    const before = count.current;
    count.current = now.current.nodes.length;
    // A node more or less does not move what somebody looks at.
    return !first && Math.abs(before - count.current) <= 2;
  };
  useEffect(() => {
    const question: Question = {
      key, width: svg.current?.clientWidth ?? 1000, height: svg.current?.clientHeight ?? 600, nodes: graph.nodes.map((node) => ({ id: node.id, width: widthOf(node), height: HEIGHT, namespace: node.namespace })),
      edges: graph.calls.map(({ id, from, to }) => ({ id, from, to })),
    };
    worker.current?.postMessage(question);
  }, [key]);
  useEffect(() => { if (drawn.current === key) view.current?.update(graph); }, [graph]);
  useEffect(() => { view.current?.pick(picked); }, [picked.node, picked.call, key]);
  return (
    <>
      <svg ref={svg} role="group" aria-label={`${graph.nodes.length} services and workloads, ${graph.calls.length} calls`} data-nodes={graph.nodes.length} />
      <div class="corner">
        <button type="button" onClick={() => view.current?.zoom(1.25)} aria-label="Closer">+</button>
        <button type="button" onClick={() => view.current?.zoom(0.8)} aria-label="Further">−</button>
        <button type="button" onClick={() => view.current?.fit()}>Fit</button>
      </div>
      <div class="legend"><Mark tone="ok">from 99.5%</Mark><Mark tone="warn">from 95%</Mark><Mark tone="bad">below</Mark><span>on edges: requests a second, p99</span></div>
    </>
  );
}

function Side({ graph, picked, close }: { graph: Graph; picked: Picked; close: () => void }) {
  const node = graph.nodes.find((one) => one.id === picked.node);
  const call = graph.calls.find((one) => one.id === picked.call);
  const series = useSeries({ window: 900, step: 15, by: "service" });
  const points = series.data ? even(series.data, sum(series.data.rows.filter((row) => row.service === node?.id))) : [];
  const title = node?.id ?? (call ? `${call.from} → ${call.to}` : "Gone");
  const table = (list: Graph["calls"], end: "from" | "to") => list.length === 0 ? <p class="muted">nobody in this window</p> : (
    <table><tbody>{list.map((one) => <tr><td style={{ paddingLeft: 0 }}><button type="button" class="link" onClick={() => ask({ node: one[end], edge: undefined })}>{one[end]}</button></td><td class="num"><button type="button" class="link" aria-label={`${rate(one.rps)}, the call ${one.from} to ${one.to}`} onClick={() => ask({ edge: one.id, node: undefined })}>{rate(one.rps)}</button></td><td class="num" style={{ paddingRight: 0 }}>{percent(one.success)}</td></tr>)}</tbody></table>
  );
  return (
    <aside class="sidepanel" aria-label={title} onKeyDown={(event) => { if (event.key === "Escape") close(); }}>
      <div class="row" style={{ justifyContent: "space-between", flexWrap: "nowrap", alignItems: "start" }}><h2>{title}</h2><button type="button" onClick={close} aria-label="Close">✕</button></div>
      {node && (
        <>
          <p class="muted">{node.box ? "namespace" : node.service ? "service" : "caller"}{node.namespace ? ` in ${node.namespace}` : ""}</p>
          {node.box && <p style={{ marginTop: "8px" }}>{rate(node.rps)} <Success value={node.success} /> <button type="button" class="link" onClick={() => ask({ namespace: node.id, node: undefined, group: undefined })}>Show its services</button></p>}
          {node.service && !node.box && (
            <>
              <p style={{ marginTop: "8px" }}>{rate(node.rps)} <Success value={node.success} /></p>
              <Spark values={points.map((point) => perSecond(point, series.data?.stepSeconds ?? 1))} />
              <p class="row"><A href={`/service/${node.id}`}>Service</A><A href={`/graph?focus=${node.id}`}>Only its neighbours</A>{has.value.tap && <A href={`/tap?service=${node.id}`}>Tap</A>}</p>
            </>
          )}
          <h3>Called by</h3>{table(graph.calls.filter((one) => one.to === node.id), "from")}
          <h3>Calls</h3>{table(graph.calls.filter((one) => one.from === node.id), "to")}
        </>
      )}
      {call && (
        <dl style={{ marginTop: "10px" }}>
          <dt>Requests</dt><dd>{rate(call.rps)}</dd>
          <dt>Success</dt><dd><Mark tone={health(call.success)}>{percent(call.success)}</Mark></dd>
          <dt>p99</dt><dd>{ms(call.p99)}</dd>
          <dt>Protocol</dt><dd>{call.protocol || "–"}</dd>
          <dt>Protected by</dt><dd>{call.secure === "all" ? <Mark tone="ok">mTLS</Mark> : call.secure === "some" ? <Mark tone="warn">mTLS in part</Mark> : call.secure === "none" ? <Mark tone="warn">no mTLS</Mark> : "–"}<br /><span class="muted">{call.security}</span></dd>
          <dt>Callers</dt><dd>{call.sources.join(", ") || "outside of the mesh"}</dd>
          <dt>See</dt><dd><A href={`/service/${call.to}`}>{call.to}</A>{has.value.tap && <>, <A href={`/tap?service=${call.to}${call.sources[0] ? `&from=${call.sources[0]}` : ""}`}>tap</A></>}</dd>
        </dl>
      )}
      {!node && !call && <Empty title="Not in this window" />}
    </aside>
  );
}
