// Every proxy that is connected: whether it has what it should have, who it is, and until when.
import { useState } from "preact/hooks";
import { useApi } from "../api";
import { ago, span } from "../format";
import { ask, asked } from "../route";
import type { AuditEntry, Proxy } from "../types";
import { Empty, Head, Mark, Panel, Ready, Table } from "../ui";
import { lastCertificates } from "./overview";

export function Proxies() {
  const proxies = useApi<Proxy[]>("/proxies", 3000);
  const audit = useApi<AuditEntry[]>("/audit?limit=1000", 30_000);
  const filter = asked("filter");
  const [open, setOpen] = useState("");
  const certificates = lastCertificates(audit.data ?? [], proxies.data ?? []);
  const list = (proxies.data ?? []).filter((proxy) => `${proxy.name}.${proxy.namespace}`.includes(filter));
  const versions = new Set((proxies.data ?? []).filter((proxy) => proxy.client === "meshctl").map((proxy) => proxy.version));
  return (
    <>
      <Head title="Proxies" command="proxies"><input type="search" aria-label="Filter by name" placeholder="Filter" value={filter} onInput={(event) => ask({ filter: event.currentTarget.value })} /></Head>
      {versions.size > 1 && <div class="notice">Proxies of {versions.size} versions are connected; they are brought to one by restarting what they serve.</div>}
      <Panel flush>
        <Ready of={proxies}>{(all) => list.length === 0 ? <Empty title={all.length === 0 ? "No proxy is connected" : "No proxy fits"} /> : (
          <Table label="Proxies" head={["Proxy", "In sync", "Program", "Identity", "Certificate", "Connected", ["Revision", "num"], ""]}>
            {list.map((proxy) => {
              const certificate = proxy.identity ? certificates.get(proxy.identity) : undefined;
              const rejected = proxy.types.find((type) => type.rejected)?.rejected;
              const ends = certificate?.expiresUnixMs;
              const shown = open === proxy.proxy;
              return [
                <tr key={proxy.proxy}>
                  <td>{proxy.name}<span class="muted">.{proxy.namespace}</span></td>
                  <td>{rejected ? <Mark tone="bad">refused: {rejected.reason}</Mark> : proxy.synced ? <Mark tone="ok">yes</Mark> : <Mark tone="warn">behind</Mark>}</td>
                  <td class="nowrap">{proxy.client} {proxy.version} <span class="muted">{proxy.protocol}</span></td>
                  <td>{proxy.identity ? <span title={proxy.identity}>{proxy.identity.replace(/^spiffe:\/\/[^/]+\/ns\//, "").replace("/sa/", "/")}</span> : <span class="muted">none</span>}</td>
                  <td class="nowrap">{ends ? <Mark tone={ends < Date.now() ? "bad" : ends < Date.now() + 3_600_000 ? "warn" : "ok"}>{ends < Date.now() ? `over for ${span(Date.now() - ends)}` : `ends ${ago(ends)}`}</Mark> : <span class="muted">–</span>}</td>
                  <td class="nowrap">{ago(proxy.connectedSinceUnixMs)}</td>
                  <td class="num">{proxy.revisionAcked}</td>
                  <td><button type="button" class="link" aria-expanded={shown} onClick={() => setOpen(shown ? "" : proxy.proxy)}>parts</button></td>
                </tr>,
                shown && (
                  <tr key={`${proxy.proxy}-more`}><td colSpan={8} style={{ padding: "0 0 8px 24px" }}>
                    <table>
                      <thead><tr><th>Part</th><th class="num">Resources</th><th class="num">Sent</th><th class="num">Acknowledged</th><th>State</th><th class="num">Took</th></tr></thead>
                      <tbody>{proxy.types.map((type) => <tr><td>{type.type}</td><td class="num">{type.resources}</td><td class="num">{type.revisionSent ?? "–"}</td><td class="num">{type.revisionAcked}</td><td>{type.rejected ? <Mark tone="bad">{type.rejected.reason} ({type.rejected.resources.join(", ")})</Mark> : type.waiting ? <Mark tone="warn">waiting</Mark> : <Mark tone="ok">in force</Mark>}</td><td class="num">{type.ackedUnixMs && type.sentUnixMs ? `${Math.max(0, type.ackedUnixMs - type.sentUnixMs)} ms` : "–"}</td></tr>)}</tbody>
                    </table>
                  </td></tr>
                ),
              ];
            })}
          </Table>
        )}</Ready>
      </Panel>
    </>
  );
}
