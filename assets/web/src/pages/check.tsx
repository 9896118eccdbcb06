// Whether the installation is well.
import { useApi } from "../api";
import type { Check } from "../types";
import { Head, Mark, Panel, Ready } from "../ui";

const TONES = { ok: "ok", warning: "warn", failed: "bad" } as const;

export function CheckPage() {
  const report = useApi<Check>("/check", 0);
  const all = report.data?.sections.flatMap((section) => section.checks) ?? [];
  const failed = all.filter((check) => check.status === "failed").length, warned = all.filter((check) => check.status === "warning").length;
  return (
    <>
      <Head title="Check" command="check"><button type="button" onClick={report.reload}>Check again</button></Head>
      <Ready of={report}>{({ sections }) => (
        <>
          <p style={{ marginBottom: "14px" }}>{failed > 0 ? <Mark tone="bad">{failed} of {all.length} checks failed</Mark> : warned > 0 ? <Mark tone="warn">{warned} of {all.length} checks should be looked at</Mark> : <Mark tone="ok">all {all.length} checks passed</Mark>}</p>
          <div class="grid two">
            {sections.filter((section) => section.checks.length > 0).map((section) => (
              <Panel title={section.name}>
                <ul class="checks">
                  {section.checks.map((check) => (
                    <li>
                      <Mark tone={TONES[check.status]}>{check.text}{check.status !== "ok" && <span class="sr">: {check.status}</span>}</Mark>
                      {check.detail && <p class="muted" style={{ paddingLeft: "16px" }}>{check.detail}</p>}
                      {check.hint && <p class="muted" style={{ paddingLeft: "16px" }}>{check.hint}</p>}
                    </li>
                  ))}
                </ul>
              </Panel>
            ))}
          </div>
        </>
      )}</Ready>
    </>
  );
}
