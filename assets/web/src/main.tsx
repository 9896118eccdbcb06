// The frame: what there is to see on the left, what is looked at on the right.
import "./style.css";
import { render } from "preact";
import { drawn, state } from "./state";
import { useEffect, useState } from "preact/hooks";
import { about, begin, has, locked, role, useApi } from "./api";
import { repaint } from "./chart";
import { place } from "./route";
import { A, Choice, Empty, Head, Panel } from "./ui";
import type { Finding } from "./types";
import { Authz } from "./pages/authz";
import { Canaries, Canary } from "./pages/canaries";
import { CheckPage } from "./pages/check";
import { Config, Editor } from "./pages/config";
import { History } from "./pages/history";
import { GraphPage } from "./pages/graph";
import { Overview } from "./pages/overview";
import { Proxies } from "./pages/proxies";
import { ServicePage } from "./pages/service";
import { Services } from "./pages/services";
import { Tap } from "./pages/tap";
import { Trace, Traces } from "./pages/traces";

const THEME = "meshctl.theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const theme = state(localStorage.getItem(THEME) ?? "auto");
const paint = (): void => {
  const dark = theme.value === "dark" || (theme.value === "auto" && system.matches);
  document.documentElement.dataset["theme"] = dark ? "dark" : "light";
  repaint();
};
system.addEventListener("change", paint);
paint();

function pick(value: string): void {
  theme.value = value;
  localStorage.setItem(THEME, value);
  paint();
}

const started = state(false);
void begin().then(() => { started.value = true; });

function Page() {
  const [, view = "", a = "", b = "", c = ""] = place.value.path.split("/");
  switch (view) {
    case "": return <Overview />;
    case "graph": return <GraphPage />;
    case "services": return <Services />;
    case "service": return <ServicePage name={a} key={a} />;
    case "canaries": return a ? <Canary service={a} key={a} /> : <Canaries />;
    case "tap": return has.value.tap ? <Tap /> : <Nothing />;
    case "traces": return !has.value.traces ? <Nothing /> : a ? <Trace id={a} key={a} /> : <Traces />;
    case "config": return a ? <Editor kind={a} namespace={b} name={c} key={a + b + c} /> : <Config />;
    case "history": return <History />;
    case "authz": return <Authz />;
    case "proxies": return <Proxies />;
    case "check": return <CheckPage />;
    default: return <Nothing />;
  }
}

function Nothing() {
  return <><Head title="Not here" /><Panel><Empty title="There is no such page">This control plane may be of an older version. <A href="/">Overview</A></Empty></Panel></>;
}

function Link({ to, children, n }: { to: string; children: string; n?: number }) {
  const path = place.value.path;
  const base = `/${path.split("/")[1] ?? ""}`;
  const here = base === to || (to === "/services" && base === "/service");
  // Where there is no room for all views, the one that is shown is among those that are.
  useEffect(() => { if (here) document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" }); }, [here]);
  return <A href={to} aria-current={here ? "page" : undefined}>{children}{n ? <span class="n" aria-label={`${n} findings`}>{n}</span> : null}</A>;
}

function Frame() {
  const findings = useApi<Finding[]>("/findings", 10_000);
  const bad = findings.data?.filter((one) => one.severity !== "info").length;
  const { tap, traces } = has.value;
  return (
    <div class="frame">
      <a class="skip" href="#main">Skip to the content</a>
      <div class="side">
        <div class="brand">
          <A href="/"><img src="/icon.svg" width="18" height="18" alt="" />meshctl</A>
          <div class="mesh" title={about.value?.place}>{about.value?.context}{about.value?.readOnly ? ", read-only" : role.value === "viewer" ? ", as viewer" : ""}</div>
        </div>
        <nav aria-label="Views">
          <Link to="/">Overview</Link>
          <Link to="/graph">Graph</Link>
          <Link to="/services">Services</Link>
          <Link to="/canaries">Canaries</Link>
          {(tap || traces) && <h2>Requests</h2>}
          {tap && <Link to="/tap">Tap</Link>}
          {traces && <Link to="/traces">Traces</Link>}
          <h2>Mesh</h2>
          <Link to="/config" n={bad}>Configuration</Link>
          <Link to="/history">History</Link>
          <Link to="/authz">Authorization</Link>
          <Link to="/proxies">Proxies</Link>
          <Link to="/check">Check</Link>
        </nav>
        <footer>
          <Choice label="Colours" value={theme.value} onPick={pick} options={[["auto", "Auto"], ["light", "Light"], ["dark", "Dark"]]} />
          <span>meshctl {about.value?.version}, <a href="/licenses.txt">licences</a></span>
        </footer>
      </div>
      <main id="main" tabIndex={-1}>
        {locked.value === "away" && <div class="notice" role="alert"><strong>meshctl dashboard does not answer.</strong> It may have been ended; what is shown is the last that was known.</div>}
        <Page />
      </main>
    </div>
  );
}

function Locked() {
  const [text, set] = useState("");
  const open = (event: Event): void => {
    event.preventDefault();
    const found = /session=([0-9a-f]{64})/.exec(text) ?? /^([0-9a-f]{64})$/.exec(text.trim());
    if (found?.[1]) location.hash = `session=${found[1]}`;
  };
  return (
    <main>
      <Panel>
        <Empty title="This window was not opened by its link">
          Open the link that <code>meshctl dashboard</code> printed, or paste it here. Links end with the command that printed them.
        </Empty>
        <form class="row" style={{ justifyContent: "center" }} onSubmit={open}>
          <input aria-label="Link" size={48} value={text} onInput={(event) => set(event.currentTarget.value)} placeholder="http://127.0.0.1:15050/#session=…" />
          <button type="submit" class="primary">Open</button>
        </form>
      </Panel>
    </main>
  );
}

function App() {
  if (locked.value === "secret") return <Locked />;
  // As the file has it, until it is known what there is to show.
  if (!started.value) return <div class="frame"><div class="side"><div class="brand"><b>meshctl</b></div></div><main /></div>;
  if (!about.value) return <main><Panel><Empty title="meshctl dashboard does not answer">It may have been ended; start it again and open its link.</Empty></Panel></main>;
  return <Frame />;
}

const root = document.getElementById("app");
if (root) {
  drawn(() => render(<App />, root));
  render(<App />, root);
}
