// What people wrote, with what is wrong with it where it stands; changes are seen before they are made.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { about, type ApiError, mayChange, post, remove, url, useApi } from "../api";
import { ago, word } from "../format";
import { ask, asked, go } from "../route";
import type { Applied, Diff, Finding, Resource, Rights } from "../types";
import { A, Confirm, Empty, Failure, Findings, Head, Loading, Mark, Panel, Ready, Table } from "../ui";
import { lineOf, written, yaml } from "../yaml";
import { Difference } from "./difference";

const link = (one: { kind: string; namespace: string; name: string }): string => `/config/${one.kind}/${one.namespace || "-"}/${one.name}`;
const same = (finding: Finding, one: { kind: string; namespace: string; name: string }): boolean =>
  finding.origin.kind === one.kind && finding.origin.namespace === one.namespace && finding.origin.name === one.name;

export function Config() {
  const objects = useApi<Resource[]>("/resources", 10_000);
  const findings = useApi<Finding[]>("/findings", 10_000);
  const kind = asked("kind"), filter = asked("filter"), bad = asked("findings") === "1";
  const kinds = useMemo(() => {
    const counts = new Map<string, number>();
    for (const one of objects.data ?? []) counts.set(one.kind, (counts.get(one.kind) ?? 0) + 1);
    return [...counts].sort((a, b) => a[0] < b[0] ? -1 : 1);
  }, [objects.data]);
  const of = (one: Resource): Finding[] => (findings.data ?? []).filter((finding) => same(finding, one));
  const list = (objects.data ?? []).filter((one) => (!kind || one.kind === kind) && `${one.namespace}/${one.name}`.includes(filter) && (!bad || of(one).length > 0));
  const homeless = (findings.data ?? []).filter((finding) => !(objects.data ?? []).some((one) => same(finding, one)));
  return (
    <>
      <Head title="Configuration" command={kind ? `get ${kind}` : "analyze"}>
        <input type="search" aria-label="Filter by name" placeholder="Filter" value={filter} onInput={(event) => ask({ filter: event.currentTarget.value })} />
        <select aria-label="Kind" value={kind} onChange={(event) => ask({ kind: event.currentTarget.value })}>
          <option value="">all kinds</option>
          {kinds.map(([name, n]) => <option value={name}>{name} ({n})</option>)}
        </select>
        <label class="row nowrap"><input type="checkbox" checked={bad} onChange={(event) => ask({ findings: event.currentTarget.checked ? "1" : undefined })} /> with findings</label>
        {mayChange() && <A class="button" href="/config/new">New…</A>}
      </Head>
      {homeless.length > 0 && <Panel title="Findings" flush><Findings list={homeless} /></Panel>}
      <Panel flush>
        <Ready of={objects}>{(all) => list.length === 0 ? <Empty title={all.length === 0 ? "Nothing was applied yet" : "No object fits"}>{all.length === 0 && <>Apply files with <code>meshctl apply -f FILE</code>.</>}</Empty> : (
          <Table label="Objects" head={["Kind", "Name", "Findings", "Changed", ["Revision", "num"]]}>
            {list.map((one) => {
              const found = of(one);
              const worst = found.some((each) => each.severity === "error") ? "bad" : found.some((each) => each.severity === "warning") ? "warn" : "info";
              return (
                <tr>
                  <td class="muted">{one.kind}</td>
                  <td><A href={link(one)}>{one.namespace ? `${one.namespace}/` : ""}{one.name}</A></td>
                  <td>{found.length > 0 ? <Mark tone={worst}>{found.length === 1 ? found[0]?.message : `${found.length} findings`}</Mark> : <span class="muted">–</span>}</td>
                  <td class="nowrap">{one.changedUnixMs ? ago(one.changedUnixMs) : "–"}</td>
                  <td class="num">{one.revision ? <A href={`/history?revision=${one.revision}`}>{one.revision}</A> : "–"}</td>
                </tr>
              );
            })}
          </Table>
        )}</Ready>
      </Panel>
    </>
  );
}

const BLANK = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: example
  namespace: default
spec:
  hosts:
  - example
  http:
  - route:
    - destination:
        host: example
`;

export function Editor({ kind, namespace, name }: { kind: string; namespace: string; name: string }) {
  const fresh = kind === "new";
  const space = namespace === "-" ? "" : namespace;
  const found = useApi<Resource[]>(fresh ? undefined : url(`/resources/${kind}`, { namespace: space, name }), 0);
  const findings = useApi<Finding[]>(fresh ? undefined : "/findings", 10_000);
  const [editing, edit] = useState(fresh);
  const [deleting, remove_] = useState(false);
  const one = found.data?.find((each) => each.name === name && each.namespace === space);
  const text = useMemo(() => one && yaml(written(one.object)), [one]);
  const mine = (findings.data ?? []).filter((finding) => one && same(finding, one));
  const inCluster = about.value?.inCluster ?? false;
  // What is masked here would be written masked.
  const open = mayChange() && kind !== "Secret";
  // In a cluster the API server says who may, of each object.
  const rights = useApi<Rights>(open && inCluster && !fresh ? url("/rights", { kind, namespace: space, name }) : undefined, 0);
  const writable = open && (!inCluster || rights.data?.change), deletable = open && (!inCluster || rights.data?.delete);
  const title = fresh ? "New object" : <>{kind} {space ? `${space}/` : ""}{name}</>;
  const command = fresh ? "apply -f FILE" : `get ${kind} ${word(name)}${space && space !== "default" ? ` -n ${space}` : ""} -o yaml`;
  return (
    <>
      <Head title={title} crumb={<A href="/config">Configuration</A>} command={command}>
        {!fresh && <A class="button" href={url("/history", { kind, namespace: space, name })}>History</A>}
        {one && writable && !editing && <button type="button" class="primary" onClick={() => edit(true)}>Edit</button>}
        {one && deletable && !editing && <button type="button" class="danger" onClick={() => remove_(true)}>Delete…</button>}
      </Head>
      {inCluster && one && kind !== "Secret" && !(writable && deletable) && <p class="muted" style={{ marginBottom: "10px" }}>{mayChange() ? rights.data ? `The API server does not let you: it takes the right to ${rights.data.lacks}.` : rights.error ? rights.error.problem.message : "Asking the API server what you may…" : "This window only looks."} With other rights: <code>kubectl edit {kind.toLowerCase()} {name} -n {space || "default"}</code>, or <code>meshctl apply</code>.</p>}
      {editing
        ? <Edit start={fresh ? BLANK : text?.text ?? ""} version={inCluster && one ? versionOf(one) : undefined} namespace={space || "default"} close={() => fresh ? go("/config") : edit(false)} done={(applied) => {
          const first = applied.objects[0];
          edit(false);
          if (fresh && first) go(link(first));
          else found.reload();
          findings.reload();
        }} />
        : found.data && !one ? <Panel><Empty title="There is no such object">It may have been deleted. <A href={url("/history", { kind, namespace: space, name })}>Its history</A></Empty></Panel>
        : found.error ? <Panel><Failure error={found.error} retry={found.reload} /></Panel>
        : !text || !one ? <Panel flush><Loading rows={10} /></Panel>
        : (
          <Panel flush title="As it stands" aside={<>changed {one.changedUnixMs ? ago(one.changedUnixMs) : "at an unknown time"}{one.revision ? <>, <A href={`/history?revision=${one.revision}`}>revision {one.revision}</A></> : null}</>}>
            {mine.length === 0 && <p class="findings"><Mark tone="ok">No findings</Mark></p>}
            <Shown text={text.text} findings={mine.map((finding) => [lineOf(text.lines, finding.path ?? ""), finding])} />
          </Panel>
        )}
      {deleting && one && (
        <Confirm title={`Delete ${kind} ${name}?`} verb="Delete" danger close={() => remove_(false)} act={async () => {
          await remove(`/resources/${kind}/${space || "-"}/${encodeURIComponent(name)}`);
          go("/config");
        }}>
          <p>{inCluster ? "The API server removes it, and keeps no history of it." : "It can be brought back from the history."}</p>
        </Confirm>
      )}
    </>
  );
}

/// Text with what is wrong below the line that it is about.
function Shown({ text, findings }: { text: string; findings: [number, Finding][] }) {
  return (
    <div class="yaml" tabIndex={0} role="region" aria-label="YAML">
      {text.replace(/\n$/, "").split("\n").map((line, at) => {
        const here = findings.filter(([of]) => of === at + 1);
        return (
          <>
            <span class={here.length > 0 ? "l found" : "l"}>{line}</span>
            {here.map(([, finding]) => <span class="say"><Mark tone={finding.severity === "error" ? "bad" : finding.severity === "warning" ? "warn" : "info"}>{finding.message} [{finding.code}]{finding.hint ? ` ${finding.hint}` : ""}</Mark></span>)}
          </>
        );
      })}
    </div>
  );
}

const FILE = "dashboard";
/// The API server's version of an object, which it must still have when it is replaced.
const versionOf = (one: Resource): string => String((one.object["metadata"] as Record<string, unknown> | undefined)?.["resourceVersion"] ?? "");

function Edit({ start, version, namespace, close, done }: { start: string; version: string | undefined; namespace: string; close: () => void; done: (applied: Applied) => void }) {
  const [text, set] = useState(start);
  const [found, setFound] = useState<Finding[]>([]);
  const [error, setError] = useState<ApiError>();
  const [diff, setDiff] = useState<{ text: string; diff: Diff }>();
  const [busy, setBusy] = useState("");
  const gutter = useRef<HTMLDivElement>(null);
  const sources = [{ name: FILE, text }];
  useEffect(() => {
    const timer = setTimeout(() => {
      void post<{ findings: Finding[] }>("/analyze", { sources, namespace }).then(
        ({ findings }) => setFound(findings.filter((one) => one.origin.file === FILE)),
        (failed: ApiError) => setFound(failed.problem?.findings ?? []),
      );
    }, 400);
    return () => clearTimeout(timer);
  }, [text]);
  const attempt = async (what: string, act: () => Promise<void>): Promise<void> => {
    setBusy(what);
    setError(undefined);
    try {
      await act();
    } catch (failed) {
      setError(failed as ApiError);
    }
    setBusy("");
  };
  const review = (): Promise<void> => attempt("review", async () => { setDiff({ text, diff: await post<Diff>("/diff", { sources, namespace }) }); });
  const apply = (): Promise<void> => attempt("apply", async () => { done(await post<Applied>("/resources", { sources, namespace, who: "", resourceVersion: version })); });
  const lines = text.split("\n");
  const tone = (line: number): string => found.some((one) => one.origin.line === line && one.severity === "error") ? "bad" : found.some((one) => one.origin.line === line) ? "warn" : "";
  const current = diff?.text === text ? diff.diff : undefined;
  return (
    <>
      <Panel flush title="Edit" aside={found.length > 0 ? `${found.length} ${found.length === 1 ? "finding" : "findings"}` : "no findings"}>
        <div class="editor">
          <div class="gutter" ref={gutter} aria-hidden="true">{lines.map((_, at) => <div class={tone(at + 1)}>{tone(at + 1) ? "▸ " : ""}{at + 1}</div>)}</div>
          <textarea aria-label="YAML" spellcheck={false} autocapitalize="off" rows={lines.length + 1} style={{ height: `${(lines.length + 1) * 19 + 20}px` }} value={text} onInput={(event) => set(event.currentTarget.value)} />
        </div>
        {found.length > 0 && <div style={{ paddingTop: "10px", borderTop: "1px solid var(--line)" }}><Findings list={found.map((one) => ({ ...one, origin: { ...one.origin, kind: "" } }))} /></div>}
      </Panel>
      {error && <Panel><Failure error={error} /></Panel>}
      {current && <Panel flush title="What would change"><Difference diff={current} /></Panel>}
      <div class="row">
        <button type="button" class={current ? "" : "primary"} disabled={busy !== "" || text === start} onClick={review}>{busy === "review" ? "Comparing…" : "Review changes"}</button>
        {current && <button type="button" class="primary" disabled={busy !== "" || current.refused} onClick={apply}>{busy === "apply" ? "Applying…" : "Apply"}</button>}
        <button type="button" onClick={close}>Cancel</button>
        {text === start ? <span class="muted">nothing was changed yet</span> : !current && <span class="muted">changes are seen before they are applied</span>}
      </div>
    </>
  );
}
