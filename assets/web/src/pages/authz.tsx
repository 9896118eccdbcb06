// Who may call whom, by the policies as they are, beside who did.
import { useState } from "preact/hooks";
import { has, url, useApi } from "../api";
import { rate, split, word } from "../format";
import { ask, asked } from "../route";
import type { Edges, Matrix, MatrixCell } from "../types";
import { A, Empty, Head, Mark, Panel, Ready, Tag } from "../ui";

const METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];

export function Authz() {
  const method = asked("method") || "GET", path = asked("path") || "/", to = asked("to");
  const [typed, type] = useState(path);
  const matrix = useApi<Matrix>(has.value.matrix ? url("/authz/matrix", { method, path }) : undefined, 10_000);
  const edges = useApi<Edges>("/edges?window=900", 10_000);
  const [picked, pick] = useState<MatrixCell>();
  const calls = new Map<string, number>();
  for (const edge of edges.data?.edges ?? []) {
    const key = `${edge.source}>${edge.destination}`;
    calls.set(key, (calls.get(key) ?? 0) + edge.requestsPerSecond);
  }
  const shown = picked && matrix.data?.cells.find((cell) => cell.from === picked.from && cell.to === picked.to);
  const flags = (cell: MatrixCell): string => `authz check ${method === "GET" && path === "/" ? "" : `${method} ${word(path)} `}${cell.from ? `--from ${word(cell.from)} ` : ""}--to ${word(cell.to)}`;
  return (
    <>
      <Head title="Authorization" command={shown ? flags(shown) : `authz check ${method === "GET" && path === "/" ? "" : `${method} ${word(path)} `}--from CALLER --to SERVICE`}>
        <select aria-label="Method" value={method} onChange={(event) => ask({ method: event.currentTarget.value === "GET" ? undefined : event.currentTarget.value })}>{METHODS.map((one) => <option>{one}</option>)}</select>
        <form onSubmit={(event) => { event.preventDefault(); ask({ path: typed === "/" ? undefined : typed }); }}><input aria-label="Path" value={typed} onInput={(event) => type(event.currentTarget.value)} onBlur={() => ask({ path: typed === "/" ? undefined : typed })} /></form>
        {to && <button type="button" onClick={() => ask({ to: undefined })}>to {to} ✕</button>}
      </Head>
      {!has.value.matrix ? <Panel><Empty title="This control plane cannot say it for all at once">Ask for one call with <code>meshctl authz check</code>.</Empty></Panel> : (
        <>
          <Panel flush title={`May call with ${method} ${path}`} aside={<span class="row"><Mark tone="ok">allowed</Mark><Mark tone="bad">denied</Mark><Mark tone="info">asked outside</Mark><span>A audited</span><span>underlined: called in the last 15 min</span></span>}>
            <Ready of={matrix}>{(data) => {
              const services = data.services.filter((service) => !to || service === to);
              const cells = new Map(data.cells.map((cell) => [`${cell.from}>${cell.to}`, cell]));
              if (services.length === 0 || data.callers.length === 0) return <Empty title="Nobody to judge yet">Services and workloads appear here as they are known.</Empty>;
              return (
                <div class="scroll matrix" tabIndex={0} role="region" aria-label="Authorization matrix">
                  <table>
                    <thead><tr><th scope="col">Caller</th>{services.map((service) => <th scope="col" class="col"><A href={`/service/${service}`} title={service}>{split(service).name}</A></th>)}</tr></thead>
                    <tbody>
                      {data.callers.map((caller) => (
                        <tr>
                          <th scope="row">{caller || "no identity"}</th>
                          {services.map((service) => {
                            const cell = cells.get(`${caller}>${service}`);
                            if (!cell) return <td><span class="muted">–</span></td>;
                            const called = calls.get(`${caller}>${service}`);
                            return (
                              <td>
                                <button type="button" class={called ? "called" : ""} aria-pressed={shown === cell} title={`${caller || "somebody without an identity"} → ${service}: ${cell.because}`} onClick={() => pick(cell)}>
                                  <Mark tone={cell.verdict === "allowed" ? "ok" : cell.verdict === "denied" ? "bad" : "info"}>{cell.verdict === "asked" ? "asked" : cell.verdict}{cell.audited ? " A" : ""}</Mark>
                                </button>
                              </td>
                            );
                          })}
                        </tr>
                      ))}
                    </tbody>
                  </table>
                  {data.leftOut > 0 && <p class="findings muted">{data.leftOut} more calls are left out; ask for them with <code>meshctl authz check</code>.</p>}
                </div>
              );
            }}</Ready>
          </Panel>
          {shown && (
            <Panel title={`${shown.from || "Somebody without an identity"} → ${shown.to}`}>
              <dl>
                <dt>Verdict</dt><dd><Mark tone={shown.verdict === "allowed" ? "ok" : shown.verdict === "denied" ? "bad" : "info"}>{shown.verdict}{shown.audited ? ", audited" : ""}</Mark></dd>
                <dt>Because</dt><dd>{shown.because}</dd>
                <dt>Policies</dt><dd>{shown.policies.length === 0 ? <span class="muted">none applies here</span> : <div class="tags">{shown.policies.map((policy) => <Tag>{policy}</Tag>)}</div>}</dd>
                <dt>Called</dt><dd>{calls.has(`${shown.from}>${shown.to}`) ? `${rate(calls.get(`${shown.from}>${shown.to}`))} in the last 15 minutes` : "not in the last 15 minutes"}</dd>
              </dl>
            </Panel>
          )}
        </>
      )}
    </>
  );
}
