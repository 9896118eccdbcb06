// Who changed what, and the way back.
import { useState } from "preact/hooks";
import { about, type ApiError, mayChange, post, url, useApi } from "../api";
import { ago, stamp } from "../format";
import { ask, asked } from "../route";
import type { Diff, HistoryEntry } from "../types";
import { Confirm, Empty, Failure, Head, Panel, Ready, Tag } from "../ui";
import { Difference, Objects } from "./difference";

export function History() {
  const kind = asked("kind"), namespace = asked("namespace"), name = asked("name"), open = asked("revision");
  const history = useApi<HistoryEntry[]>(url("/history", { kind, namespace, name, limit: 200 }), 10_000);
  const [back, setBack] = useState<{ revision: number; diff: Diff }>();
  const [error, setError] = useState<ApiError>();
  const preview = async (revision: number): Promise<void> => {
    setError(undefined);
    try {
      setBack({ revision, diff: await post<Diff>("/diff", { revision }) });
    } catch (failed) {
      setError(failed as ApiError);
    }
  };
  const newest = history.data?.[0]?.revision;
  return (
    <>
      <Head title="History" command={`history${kind ? ` ${kind} ${name}${namespace && namespace !== "default" ? ` -n ${namespace}` : ""}` : ""}${open ? ` --diff ${open}` : ""}`}>
        {kind && <button type="button" onClick={() => ask({ kind: undefined, namespace: undefined, name: undefined })}>{kind} {name} ✕</button>}
      </Head>
      {error && <Panel><Failure error={error} /></Panel>}
      <Panel flush>
        <Ready of={history}>{(list) => list.length === 0 ? <Empty title="Nothing was changed yet" /> : (
          <div class="scroll" tabIndex={0} role="region" aria-label="Revisions">
            <table>
              <thead><tr><th scope="col">Revision</th><th scope="col">When</th><th scope="col">Who</th><th scope="col">What</th><th scope="col">Objects</th><th scope="col"><span class="sr">Actions</span></th></tr></thead>
              <tbody>
                {list.map((one) => {
                  const shown = open === String(one.revision);
                  return [
                    <tr key={one.revision}>
                      <td><button type="button" class="link" aria-expanded={shown} onClick={() => ask({ revision: shown ? undefined : String(one.revision) })}>{one.revision}</button></td>
                      <td class="nowrap" title={stamp(one.atUnixMs)}>{ago(one.atUnixMs)}</td>
                      <td>{one.who || "–"}</td>
                      <td>{one.what}</td>
                      <td><div class="tags">{one.objects.slice(0, 4).map((object) => <Tag>{object.outcome} {object.kind} {object.name}</Tag>)}{one.objects.length > 4 && <span class="muted">and {one.objects.length - 4} more</span>}</div></td>
                      <td class="num nowrap">{mayChange() && !about.value?.inCluster && one.revision !== newest && !kind && <button type="button" onClick={() => preview(one.revision)}>Go back…</button>}</td>
                    </tr>,
                    shown && <tr key={`${one.revision}-more`}><td colSpan={6} style={{ padding: 0 }}><Changes revision={one.revision} /></td></tr>,
                  ];
                })}
              </tbody>
            </table>
          </div>
        )}</Ready>
      </Panel>
      {back && (
        <Confirm title={`Go back to revision ${back.revision}?`} verb="Go back" danger close={() => { setBack(undefined); history.reload(); }} act={async () => { await post("/rollback", { revision: back.revision, who: "" }); }}>
          <p>The objects become what they were then; that is a new revision, which can be taken back as well.</p>
          <div style={{ maxHeight: "46vh", overflow: "auto", margin: "10px -22px 0" }} tabIndex={0} role="region" aria-label="What would change"><Difference diff={back.diff} /></div>
        </Confirm>
      )}
    </>
  );
}

function Changes({ revision }: { revision: number }) {
  const told = useApi<HistoryEntry[]>(url("/history", { revision, diff: "true" }), 0);
  return <Ready of={told} rows={3}>{(list) => {
    const objects = list.find((one) => one.revision === revision)?.changes ?? [];
    return objects.length === 0 ? <Empty title="Nothing more is kept of this revision" /> : <Objects objects={objects} />;
  }}</Ready>;
}
