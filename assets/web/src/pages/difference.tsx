// What a change does, field by field.
import type { Diff, ObjectDiff } from "../types";
import { Findings, Mark, type Tone } from "../ui";
import { yaml } from "../yaml";

const text = (value: unknown): string => typeof value === "object" && value !== null ? yaml(value).text.trimEnd() : JSON.stringify(value);
const TONES: Record<string, Tone> = { created: "ok", configured: "info", deleted: "bad", unchanged: "idle" };

export function Objects({ objects }: { objects: ObjectDiff[] }) {
  return (
    <>
      {objects.map((one) => (
        <div style={{ paddingBottom: "10px" }}>
          <p style={{ padding: "6px 16px 0" }}><Mark tone={TONES[one.outcome] ?? "idle"}>{one.outcome}</Mark> <span class="strong">{one.kind} {one.namespace ? `${one.namespace}/` : ""}{one.name}</span></p>
          <div class="difference">
            {one.fields.map((field) => (
              <div>
                <div class="path">{field.path}</div>
                {field.before !== undefined && <div class="minus"><span class="sr">before: </span>{text(field.before).split("\n").map((line) => `- ${line}`).join("\n")}</div>}
                {field.after !== undefined && <div class="plus"><span class="sr">after: </span>{text(field.after).split("\n").map((line) => `+ ${line}`).join("\n")}</div>}
              </div>
            ))}
          </div>
        </div>
      ))}
    </>
  );
}

export function Difference({ diff }: { diff: Diff }) {
  const touched = diff.proxies.reduce((all, one) => all + one.proxies.length, 0);
  const changed = diff.objects.filter((one) => one.outcome !== "unchanged");
  return (
    <>
      {changed.length === 0 ? <p class="findings">Nothing changes.</p> : <Objects objects={changed} />}
      <p class="findings muted">{touched === 0 ? "No proxy gets another configuration." : `${touched} ${touched === 1 ? "proxy gets" : "proxies get"} another configuration, ${diff.unchangedProxies} keep theirs.`}</p>
      {diff.refused && <p class="findings"><Mark tone="bad">This change would be refused</Mark></p>}
      {diff.findings.length > 0 && <Findings list={diff.findings} />}
    </>
  );
}
