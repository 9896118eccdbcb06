// Versions side by side: shares as they are, and rollouts that move them.
import { useState } from "preact/hooks";
import { has, mayChange, post, useApi } from "../api";
import { Chart } from "../chart";
import { ago, count, ms, percent, rate, span, split, stamp, word } from "../format";
import { even, perSecond, success, useSeries } from "../series";
import type { Measure, Rollout, Service, Split, Step } from "../types";
import { A, Bar, Confirm, Empty, Failure, Field, Head, Mark, Panel, Ready, Success, Table, Tag, type Tone } from "../ui";

const path = (service: string): string => {
  const { name, namespace } = split(service);
  return `${namespace}/${name}`;
};
const called = (rollout: Rollout): string => `${rollout.service}.${rollout.namespace}`;
const phase = (rollout: Rollout): string => rollout.phase.charAt(0).toUpperCase() + rollout.phase.slice(1);
const ended = (rollout: Rollout): boolean => ["Succeeded", "RolledBack", "Inconclusive"].includes(phase(rollout));
const tone = (rollout: Rollout): Tone =>
  ({ Succeeded: "ok", RolledBack: "bad", Inconclusive: "warn", Paused: "warn", Waiting: "warn", Progressing: "info", Promoting: "info" } as Record<string, Tone>)[phase(rollout)] ?? "idle";
const words: Record<string, string> = { RolledBack: "rolled back" };
const said = (rollout: Rollout): string => words[phase(rollout)] ?? phase(rollout).toLowerCase();

function useRollouts(every: number) {
  return useApi<{ rollouts: Rollout[] }>(has.value.rollouts ? "/rollouts" : undefined, every);
}

export function Canaries() {
  const splits = useApi<Split[]>("/canaries", 4000);
  const rollouts = useRollouts(3000);
  const services = useApi<Service[]>("/services", 15_000);
  const [shift, setShift] = useState<Split>();
  const [start, setStart] = useState<Service>();
  const several = (services.data ?? []).filter((service) => Object.keys(service.versions).length > 1);
  return (
    <>
      <Head title="Canaries" command="canary list" />
      {has.value.rollouts && (
        <Panel title="Rollouts" flush>
          <Ready of={rollouts} rows={3}>{({ rollouts: list }) => list.length === 0 ? <Empty title="No rollout yet">{several.length > 0 ? "Start one below." : "A service with two versions can have one."}</Empty> : (
            <Table label="Rollouts" head={["Service", "Versions", "Phase", "Step", "Share", "Why", "Since"]}>
              {list.map((one) => (
                <tr>
                  <td><A href={`/canaries/${called(one)}`}>{called(one)}</A></td>
                  <td>{one.stable} → {one.canary}</td>
                  <td><Mark tone={tone(one)}>{said(one)}</Mark></td>
                  <td class="nowrap">{Math.min(one.step, one.steps.length)} of {one.steps.length}</td>
                  <td style={{ minWidth: "110px" }}><Bar share={one.weight} /> {one.weight}%</td>
                  <td>{one.reason || one.message || "–"}</td>
                  <td class="nowrap">{ago(one.updatedUnixMs)}</td>
                </tr>
              ))}
            </Table>
          )}</Ready>
        </Panel>
      )}
      <Panel title="Shares" flush aside="as configured, and as measured in the last minute">
        <Ready of={splits} rows={3}>{(list) => list.length === 0 ? <Empty title="No service is split">With <code>meshctl canary set SERVICE v1=90 v2=10</code> one is.</Empty> : (
          <Table label="Shares" head={["Service", "Version", ["Weight", "num"], "Measured", ["Ready", "num"], ["Requests", "num"], "Success", ["p99", "num"], "Written in", ""]}>
            {list.flatMap((one) => one.versions.map((version, at) => (
              <tr>
                <td>{at === 0 ? <A href={`/canaries/${one.service}`}>{one.service}</A> : ""}</td>
                <td>{version.version}</td>
                <td class="num">{version.weight} <span class="muted">({percent(version.sharePercent)})</span></td>
                <td style={{ minWidth: "110px" }}>{version.measuredPercent === undefined ? <span class="muted">no traffic</span> : <><Bar share={version.measuredPercent} /> {percent(version.measuredPercent)}</>}</td>
                <td class="num">{version.ready}</td>
                <td class="num">{rate(version.requestsPerSecond)}</td>
                <td><Success value={version.successPercent} /></td>
                <td class="num">{ms(version.latencyP99Ms)}</td>
                <td>{at === 0 ? <span title={stamp(one.changedUnixMs)}>{one.origin}</span> : ""}</td>
                <td class="num">{at === 0 && mayChange() ? <button type="button" onClick={() => setShift(one)}>Shift…</button> : ""}</td>
              </tr>
            )))}
          </Table>
        )}</Ready>
      </Panel>
      {has.value.rollouts && several.length > 0 && (
        <Panel title="Services with several versions" flush>
          <Table label="Services with several versions" head={["Service", "Versions", "Rollout", ""]}>
            {several.map((service) => {
              const name = `${service.name}.${service.namespace}`;
              const runs = rollouts.data?.rollouts.find((one) => called(one) === name && !ended(one));
              return (
                <tr>
                  <td><A href={`/service/${name}`}>{name}</A></td>
                  <td>{Object.entries(service.versions).map(([version, n]) => <Tag>{version} × {n}</Tag>)}</td>
                  <td>{runs ? <A href={`/canaries/${name}`}>{said(runs)}</A> : <span class="muted">none</span>}</td>
                  <td class="num">{mayChange() && !runs && <button type="button" onClick={() => setStart(service)}>Start a rollout…</button>}</td>
                </tr>
              );
            })}
          </Table>
        </Panel>
      )}
      {shift && <Shift of={shift} close={() => { setShift(undefined); splits.reload(); }} />}
      {start && <Start service={`${start.name}.${start.namespace}`} versions={Object.keys(start.versions)} close={() => { setStart(undefined); rollouts.reload(); }} />}
    </>
  );
}

function Shift({ of, close }: { of: Split; close: () => void }) {
  const [weights, set] = useState(() => of.versions.map((version) => version.weight));
  const sum = weights.reduce((all, one) => all + one, 0);
  const { name, namespace } = split(of.service);
  const act = async (): Promise<void> => {
    await post(`/canaries/${path(of.service)}`, { weights: of.versions.map((version, at) => [version.version, weights[at] ?? 0]) });
  };
  return (
    <Confirm title={`Shift ${of.service}`} verb="Shift now" act={act} close={close}>
      <p>Requests that begin once the proxies have it are shared anew; none that is under way is touched.</p>
      <div class="form">
        {of.versions.map((version, at) => (
          <Field label={version.version} hint={sum ? `${percent(100 * (weights[at] ?? 0) / sum)}${version.ready === 0 ? ", no ready instance" : ""}` : undefined}>
            <input type="number" min={0} max={1000} required value={weights[at]} onInput={(event) => set(weights.map((old, n) => n === at ? Math.max(0, Math.floor(Number(event.currentTarget.value))) : old))} />
          </Field>
        ))}
      </div>
      <p><code>meshctl canary set {word(name)}{namespace === "default" ? "" : ` -n ${namespace}`} {of.versions.map((version, at) => `${version.version}=${weights[at] ?? 0}`).join(" ")}</code></p>
    </Confirm>
  );
}

function Start({ service, versions, close }: { service: string; versions: string[]; close: () => void }) {
  const [stable, setStable] = useState(versions[0] ?? "");
  const [canary, setCanary] = useState(versions[1] ?? "");
  const [steps, setSteps] = useState("1, 5, 25, 50, 100");
  const [interval, setInterval_] = useState(30);
  const [least, setLeast] = useState(99);
  const [requests, setRequests] = useState(100);
  const list = steps.split(/[\s,]+/).filter(Boolean).map(Number);
  const good = list.length > 0 && list.every((one, at) => one > 0 && one <= 100 && one > (list[at - 1] ?? 0));
  const act = async (): Promise<void> => {
    const shares = list.map((weight) => ({ weight }));
    const spec = { stable, canary, strategy: "weight", steps: shares, intervalMs: interval * 1000, minRequests: requests, metrics: [{ metric: "success-rate", bound: least, compare: true }, { metric: "p99", compare: true }] };
    await post(`/rollouts/${path(service)}`, { spec });
  };
  const pick = (value: string, set: (value: string) => void) => <select value={value} onChange={(event) => set(event.currentTarget.value)}>{versions.map((version) => <option value={version}>{version}</option>)}</select>;
  return (
    <Confirm title={`Start a rollout of ${service}`} verb="Start" close={close} act={async () => {
      if (!good || stable === canary) throw { problem: { reason: "invalid", message: stable === canary ? "the canary is another version than the stable one" : "steps are shares that grow, from 1 to 100" } };
      await act();
    }}>
      <p>Its share grows step by step while its figures hold, and goes back to none when they do not.</p>
      <div class="form">
        <Field label="Stable">{pick(stable, setStable)}</Field>
        <Field label="Canary">{pick(canary, setCanary)}</Field>
        <Field label="Steps, in percent"><input value={steps} onInput={(event) => setSteps(event.currentTarget.value)} required /></Field>
        <Field label="Interval, in seconds"><input type="number" min={1} value={interval} onInput={(event) => setInterval_(Number(event.currentTarget.value))} required /></Field>
        <Field label="Requests that a look needs"><input type="number" min={1} value={requests} onInput={(event) => setRequests(Number(event.currentTarget.value))} required /></Field>
        <Field label="Success of at least, in percent"><input type="number" min={0} max={100} step="0.1" value={least} onInput={(event) => setLeast(Number(event.currentTarget.value))} required /></Field>
      </div>
    </Confirm>
  );
}

const ACTS: Record<string, { title: string; verb: string; words: string; danger?: boolean; fits: (rollout: Rollout) => boolean }> = {
  pause: { title: "Pause", verb: "Pause", words: "The share stays as it is until it is resumed.", fits: (one) => !ended(one) && phase(one) !== "Paused" },
  resume: { title: "Resume", verb: "Resume", words: "It goes on with the step at which it was paused or waits.", fits: (one) => ["Paused", "Waiting"].includes(phase(one)) },
  promote: { title: "Promote", verb: "Promote", words: "The canary gets everything now, without the steps that are left.", fits: (one) => !ended(one) },
  abort: { title: "Abort", verb: "Abort", danger: true, words: "The stable version gets everything again, now.", fits: (one) => !ended(one) },
  undo: { title: "Undo", verb: "Undo", danger: true, words: "What the promotion did is taken back: the version before serves again.", fits: (one) => phase(one) === "Succeeded" },
};

export function Canary({ service }: { service: string }) {
  const there = has.value.rollouts;
  // Of all, since to ask for one that is not there is an error.
  const rollout = useRollouts(2000);
  const one = rollout.data?.rollouts.find((each) => called(each) === service);
  const past = useApi<{ rollouts: Rollout[] }>(one ? `/rollouts/${path(service)}/history` : undefined, 15_000);
  const shares = useApi<Split[]>("/canaries", 3000);
  const [doing, setDoing] = useState("");
  const [shift, setShift] = useState(false);
  const share = shares.data?.find((each) => each.service === service);
  const act = ACTS[doing];
  const { name, namespace } = split(service);
  const earlier = past.data?.rollouts.filter((each) => each.startedUnixMs !== one?.startedUnixMs) ?? [];
  return (
    <>
      <Head title={service} crumb={<A href="/canaries">Canaries</A>} command={`canary status ${word(name)}${namespace === "default" ? "" : ` -n ${namespace}`}`}>
        <A class="button" href={`/service/${service}`}>Service</A>
        {mayChange() && share && (!one || ended(one)) && <button type="button" onClick={() => setShift(true)}>Shift…</button>}
        {mayChange() && one && Object.entries(ACTS).filter(([, each]) => each.fits(one)).map(([key, each]) => <button type="button" class={each.danger ? "danger" : key === "promote" ? "primary" : ""} onClick={() => setDoing(key)}>{each.title}</button>)}
      </Head>
      {rollout.error && <Failure error={rollout.error} retry={rollout.reload} />}
      {one && (
        <Panel title={<>{one.stable} → {one.canary} <Mark tone={tone(one)}>{said(one)}</Mark></>} aside={`${one.strategy}, every ${span(one.intervalSeconds * 1000)}, ${one.failures} of ${one.maxFailures} failed looks, began ${ago(one.startedUnixMs)}`}>
          <ol class="steps" aria-label="Steps">
            {one.steps.map((step, at) => {
              const state = step.state.toLowerCase();
              const now = at + 1 === one.step && !ended(one);
              return <li class={state === "failed" ? "failed" : state === "passed" ? "done" : now ? "now" : ""} aria-current={now ? "step" : undefined}><span class="strong">{shared(step)}</span><span class="muted">{state}{step.startedUnixMs ? `, ${span((step.endedUnixMs ?? Date.now()) - step.startedUnixMs)}` : ""}</span></li>;
            })}
          </ol>
          {(one.reason || one.message) && <p style={{ marginTop: "12px" }}>{one.reason}{one.message && one.message !== one.reason ? <> <span class="muted">{one.message}</span></> : null}</p>}
        </Panel>
      )}
      {share && (
        <Panel title="Shares" flush>
          <Table label="Shares" head={["Version", ["Weight", "num"], "Measured", ["Ready", "num"], ["Requests", "num"], "Success", ["p99", "num"]]}>
            {share.versions.map((version) => <tr><td>{version.version}</td><td class="num">{version.weight} <span class="muted">({percent(version.sharePercent)})</span></td><td style={{ minWidth: "120px" }}>{version.measuredPercent === undefined ? <span class="muted">no traffic</span> : <><Bar share={version.measuredPercent} /> {percent(version.measuredPercent)}</>}</td><td class="num">{version.ready}</td><td class="num">{rate(version.requestsPerSecond)}</td><td><Success value={version.successPercent} /></td><td class="num">{ms(version.latencyP99Ms)}</td></tr>)}
          </Table>
        </Panel>
      )}
      <Figures service={service} rollout={one} versions={one ? [one.stable, one.canary] : share?.versions.map((version) => version.version) ?? []} />
      {one && <Measures rollout={one} />}
      {earlier.length > 0 && (
        <Panel title="Earlier rollouts" flush>
          <Table label="Earlier rollouts" head={["Began", "Versions", "Ended as", "Last share", "Why"]}>
            {earlier.map((each) => <tr><td class="nowrap">{stamp(each.startedUnixMs)}</td><td>{each.stable} → {each.canary}</td><td><Mark tone={tone(each)}>{said(each)}</Mark></td><td>{each.weight}%</td><td>{each.reason}</td></tr>)}
          </Table>
        </Panel>
      )}
      {!one && !share && (rollout.data || !there) && shares.data && <Panel><Empty title="This service is not split">There is no rollout of it and no split of its requests.</Empty></Panel>}
      {act && one && (
        <Confirm title={`${act.title} the rollout of ${service}?`} verb={act.verb} danger={act.danger} close={() => { setDoing(""); rollout.reload(); }} act={async () => { await post(`/rollouts/${path(service)}/${doing}`); }}>
          <p>{act.words}</p>
          <p><code>meshctl canary {doing} {word(name)}{namespace === "default" ? "" : ` -n ${namespace}`}</code></p>
        </Confirm>
      )}
      {shift && share && <Shift of={share} close={() => { setShift(false); shares.reload(); }} />}
    </>
  );
}

/// The last measure of each metric, with its bound.
function last(rollout: Rollout): Measure[] {
  return rollout.steps.filter((step) => step.measures.length > 0).at(-1)?.measures ?? [];
}
/// Each metric over time, a line a version, with the bound of the rollout.
function Figures({ service, rollout, versions }: { service: string; rollout: Rollout | undefined; versions: string[] }) {
  const series = useSeries({ window: 900, step: 10, service, by: "version" });
  if (!series.data) return null;
  const data = series.data;
  const inks = ["accent", "p99", "warn", "ok"];
  const rows = versions.map((version) => even(data, data.rows.find((row) => row.version === version)?.points ?? []));
  const times = rows[0]?.map((point) => point.atUnixMs) ?? [];
  const lines = (of: (point: (typeof rows)[0][0]) => number | null | undefined) => versions.map((version, at) => ({ label: version, ink: inks[at % inks.length] ?? "accent", dash: at === 1, values: rows[at]?.map(of) ?? [] }));
  const judged = new Map((rollout ? last(rollout) : []).map((measure) => [measure.metric, typeof measure.bound === "number" ? measure.bound : undefined]));
  // Events in percent of requests, as the rollout judges them.
  const rates = [...judged.keys()].flatMap((metric) => {
    const name = /^rate:(failures|retries|timeouts|overflows)$/.exec(metric)?.[1] as "failures" | undefined;
    return name ? [[metric, name] as const] : [];
  });
  const quantiles = { p50: "latencyP50Ms", p95: "latencyP95Ms", p99: "latencyP99Ms" } as const;
  return (
    <div class="grid three">
      <Panel title="Success"><Chart label="Success by version" times={times} format={percent} most={100} bound={judged.get("success-rate")} lines={lines(success)} /></Panel>
      {Object.entries(quantiles).filter(([name]) => name === "p99" || judged.has(name)).map(([name, key]) => (
        <Panel key={name} title={name}><Chart label={`${name} by version`} times={times} format={ms} bound={judged.get(name)} lines={lines((point) => point[key] ?? null)} /></Panel>
      ))}
      {rates.map(([metric, name]) => (
        <Panel key={metric} title={`${name.charAt(0).toUpperCase()}${name.slice(1)}, of requests`}><Chart label={`${name} by version`} times={times} format={percent} bound={judged.get(metric)} lines={lines((point) => point.requests ? 100 * (point[name] ?? 0) / point.requests : null)} /></Panel>
      ))}
      <Panel title="Requests a second"><Chart label="Requests a second by version" times={times} format={count} lines={lines((point) => perSecond(point, data.stepSeconds))} /></Panel>
    </div>
  );
}

/** What the canary gets in a step. */
function shared(step: Step): string {
  if (!step.mirror) return `${step.weight}%`;
  return step.mirrorPercent === undefined ? "copies" : `copies of ${step.mirrorPercent}%`;
}

function Measures({ rollout }: { rollout: Rollout }) {
  const figure = (measure: Measure, value: number | undefined): string => value === undefined ? "–" : measure.unit === "%" || /success|^rate:/.test(measure.metric) ? percent(value) : /^p\d/.test(measure.metric) ? ms(value) : count(value);
  const verdict: Record<string, Tone> = { pass: "ok", passed: "ok", fail: "bad", failed: "bad", unproven: "idle", nodata: "idle" };
  return (
    <Panel title="Measured, step by step" flush>
      <Table label="Measured, step by step" head={["Step", "Metric", ["Canary", "num"], ["Bound", "num"], ["Stable", "num"], ["Requests", "num"], "Verdict"]}>
        {rollout.steps.flatMap((step) => step.measures.map((measure, at) => (
          <tr>
            <td>{at === 0 ? shared(step) : ""}</td>
            <td>{measure.metric}</td>
            <td class="num">{figure(measure, measure.value)}</td>
            <td class="num">{typeof measure.bound === "number" ? figure(measure, measure.bound) : measure.bound ?? "–"}</td>
            <td class="num">{figure(measure, measure.baseline)}</td>
            <td class="num">{count(measure.requests)}</td>
            <td><Mark tone={verdict[measure.verdict.toLowerCase()] ?? "idle"}>{measure.verdict === "noData" ? "no data" : measure.verdict}</Mark>{measure.places?.length ? <div class="muted">{measure.places.map((place) => `${place.at} (${count(place.count)})`).join(", ")}</div> : null}</td>
          </tr>
        )))}
      </Table>
      {rollout.steps.every((step) => step.measures.length === 0) && <Empty title="Nothing was measured yet" />}
    </Panel>
  );
}
