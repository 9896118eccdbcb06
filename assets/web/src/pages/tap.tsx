// Calls as they are made: what to look for above, what comes below.
import { Component } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, has, lines, url } from "../api";
import { bytes, clock, ms, word } from "../format";
import { ask, asked } from "../route";
import type { Call } from "../types";
import { A, Empty, Failure, Field, Head, Mark, Panel, Table } from "../ui";

const FIELDS: [string, string, string][] = [
  ["service", "Service", "reviews.default"], ["from", "From", "productpage-v1.default"], ["to", "To", "reviews-v2.default"],
  ["method", "Method", "GET"], ["path", "Path begins with", "/reviews"], ["status", "Status", "5xx"],
  ["header", "Header", "x-user: anna"], ["minLatencyMs", "Slower than, ms", "100"],
];
/// Rows that are kept; older ones go.
const KEPT = 500;

export function Tap() {
  const [form, setForm] = useState(() => Object.fromEntries(FIELDS.map(([key]) => [key, asked(key)])) as Record<string, string>);
  const [rate, setRate] = useState(asked("rate") || "50");
  const [running, run] = useState(false);
  const [paused, pause] = useState(false);
  const [rows, setRows] = useState<(Call & { n: number })[]>([]);
  const [seen, setSeen] = useState(0);
  const [error, setError] = useState<ApiError>();
  const [open, setOpen] = useState<number>();
  const come = useRef<(Call & { n: number })[]>([]);
  const still = useRef(false);
  still.current = paused;

  useEffect(() => {
    if (!running) return;
    const stop = new AbortController();
    let n = 0;
    come.current = [];
    setRows([]);
    setError(undefined);
    // A burst is drawn once a frame at most, however many calls it has.
    const timer = setInterval(() => {
      setSeen(n);
      if (!still.current) setRows(come.current.toReversed());
    }, 200);
    const header = form["header"]?.replace(/\s*:\s*/, ":");
    const query = url("/tap", { ...form, header, rate });
    void lines<Call>(query, (call) => {
      come.current.push({ ...call, n: n++ });
      if (come.current.length > KEPT) come.current.shift();
    }, stop.signal).then(() => run(false), (failed: unknown) => {
      if (stop.signal.aborted) return;
      setError(failed instanceof ApiError ? failed : new ApiError(0, { reason: "unknown", message: "the stream ended early", hint: "start it again" }));
      run(false);
    }).finally(() => { if (!still.current) setRows(come.current.toReversed()); });
    return () => {
      clearInterval(timer);
      stop.abort();
    };
  }, [running]);

  const begin = (event: Event): void => {
    event.preventDefault();
    ask({ ...form, rate: rate === "50" ? undefined : rate });
    pause(false);
    run(true);
  };
  const flags: [string, string][] = [["from", "--from"], ["to", "--to"], ["method", "--method"], ["path", "--path"], ["status", "--status"], ["header", "--header"], ["minLatencyMs", "--min-latency"]];
  const command = ["tap", form["service"] && word(form["service"]), ...flags.map(([key, flag]) => form[key] ? `${flag} ${word(key === "minLatencyMs" ? `${form[key]}ms` : form[key])}` : "")].filter(Boolean).join(" ");
  return (
    <>
      <Head title="Tap" command={command}>
        {running && <button type="button" onClick={() => pause(!paused)}>{paused ? "Continue" : "Pause"}</button>}
        {/* Two buttons: one that became the other while it is pressed would start again. */}
        {running ? <button key="stop" type="button" onClick={() => run(false)}>Stop</button> : <button key="start" type="submit" form="tap" class="primary">Start</button>}
      </Head>
      <Panel>
        <form id="tap" class="form" onSubmit={begin}>
          {FIELDS.map(([key, label, example]) => (
            <Field label={label}><input disabled={running} value={form[key]} placeholder={example} inputMode={key === "minLatencyMs" ? "numeric" : undefined}
              onInput={(event) => setForm({ ...form, [key]: event.currentTarget.value.trim() })} /></Field>
          ))}
          <Field label="At most, a second"><input type="number" min={1} max={1000} disabled={running} value={rate} onInput={(event) => setRate(event.currentTarget.value)} /></Field>
        </form>
      </Panel>
      {error && <Panel><Failure error={error} /></Panel>}
      <Panel flush title="Calls" aside={<span aria-live="off">{running ? paused ? "paused; " : "live; " : ""}{seen} seen{seen > KEPT ? `, the last ${KEPT} shown` : ""}</span>}>
        {rows.length === 0 ? <Empty title={running ? "Waiting for calls" : "Nothing is tapped"}>{running ? "Calls that fit are shown as they end." : "Proxies send calls only while somebody taps; empty fields fit all."}</Empty> : (
          <div class="live">
            <Table label="Calls" head={["Time", "From", "To", "Method", "Path", "Status", ["Took", "num"], ["Bytes", "num"], ""]}>
              {rows.map((call) => <Row key={call.n} call={call} open={open === call.n} pick={setOpen} />)}
            </Table>
          </div>
        )}
      </Panel>
    </>
  );
}

type Shown = { call: Call & { n: number }; open: boolean; pick: (n: number | undefined) => void };

/// A call is drawn once, and again when it is opened or closed: hundreds are on the screen while dozens come.
class Row extends Component<Shown> {
  override shouldComponentUpdate(next: Shown): boolean { return next.open !== this.props.open; }
  override render({ call, open, pick }: Shown) {
    return (
      <>
        <tr>
          <td>{clock(call.atUnixMs, true)}</td>
          <td>{call.source || "outside"}</td>
          <td>{call.destination || call.service}{call.version ? ` ${call.version}` : ""}</td>
          <td>{call.method}</td>
          <td class="path">{call.path}</td>
          <td><Mark tone={call.status >= 500 || (call.grpcStatus ?? 0) > 0 ? "bad" : call.status >= 400 ? "warn" : "ok"}>{call.status || "–"}{call.grpcStatus === undefined ? "" : ` grpc ${call.grpcStatus}`}{call.flags && call.flags !== "-" ? ` ${call.flags}` : ""}</Mark></td>
          <td class="num">{ms(call.durationMs)}</td>
          <td class="num">{bytes(call.responseBytes)}</td>
          <td><button type="button" class="link" aria-expanded={open} onClick={() => pick(open ? undefined : call.n)}>more</button></td>
        </tr>
        {open && (
          <tr><td colSpan={9}><dl>
            <dt>Host</dt><dd>{call.authority}</dd><dt>Route</dt><dd>{call.route || "–"}</dd><dt>Protocol</dt><dd>{call.protocol}{call.mtls ? ", mTLS" : ", plaintext"}</dd>
            <dt>Sent</dt><dd>{bytes(call.requestBytes)}</dd><dt>Request</dt><dd>{call.requestId || "–"}</dd>
            {call.traceId && <><dt>Trace</dt><dd>{has.value.traces ? <A href={`/traces/${call.traceId}`}>{call.traceId}</A> : call.traceId}</dd></>}
            {Object.entries(call.headers ?? {}).map(([name, value]) => <><dt>{name}</dt><dd>{value}</dd></>)}
          </dl></td></tr>
        )}
      </>
    );
  }
}
