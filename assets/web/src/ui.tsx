// The parts that every view is made of.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { about, type ApiError, type Asked } from "./api";
import { health, percent } from "./format";
import { go } from "./route";
import type { Finding } from "./types";

type Kids = { children?: ComponentChildren };

/// A link within the page.
export function A({ href, children, ...rest }: Kids & { href: string; class?: string; title?: string; "aria-current"?: "page" | undefined }) {
  const follow = (event: MouseEvent): void => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    go(href);
  };
  return <a href={href} onClick={follow} {...rest}>{children}</a>;
}

/// The top of a view: its name, the command that shows the same, and what can be chosen.
export function Head({ title, command, children, crumb }: Kids & { title: ComponentChildren; command?: string; crumb?: ComponentChildren }) {
  return (
    <header class="head">
      <div class="title">
        {crumb && <div class="crumb">{crumb}</div>}
        <h1 tabIndex={-1}>{title}</h1>
      </div>
      <div class="tools">{children}</div>
      {command && <Command text={command} />}
    </header>
  );
}

export function Command({ text }: { text: string }) {
  const [copied, set] = useState(false);
  const flags = about.value?.flags;
  const whole = `meshctl ${flags ? `${flags} ` : ""}${text}`;
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(whole);
      set(true);
      setTimeout(() => set(false), 1500);
    } catch {
      // Without a clipboard it can still be selected.
    }
  };
  return (
    <div class="command">
      <code>{whole}</code>
      <button type="button" class="quiet" onClick={copy} aria-label={copied ? "Copied" : "Copy the command"}>{copied ? "copied" : "copy"}</button>
    </div>
  );
}

export function Panel({ title, aside, children, flush, id }: Kids & { title?: ComponentChildren; aside?: ComponentChildren; flush?: boolean; id?: string }) {
  return (
    <section class={flush ? "panel flush" : "panel"} id={id}>
      {title && <div class="panel-head"><h2>{title}</h2>{aside && <div class="aside">{aside}</div>}</div>}
      {children}
    </section>
  );
}

/// A table that scrolls by itself when the window is narrow.
export function Table({ head, children, label }: Kids & { head: (string | [string, string])[]; label: string }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={label}>
      <table>
        <thead><tr>{head.map((cell) => typeof cell === "string" ? <th scope="col">{cell}</th> : <th scope="col" class={cell[1]}>{cell[0]}</th>)}</tr></thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

export type Tone = "ok" | "warn" | "bad" | "idle" | "info";

/// A state in colour, shape and word.
export function Mark({ tone, children }: Kids & { tone: Tone }) {
  const shape = { ok: "M5 1a4 4 0 1 0 .001 0Z", warn: "M5 .8 9.4 9H.6Z", bad: "M1.5 1.5h7v7h-7Z", idle: "M5 1.5a3.5 3.5 0 1 0 .001 0Zm0 1.5a2 2 0 1 1-.001 0Z", info: "M5 .8 9.2 5 5 9.2.8 5Z" }[tone];
  return (
    <span class={`mark ${tone}`}>
      <svg viewBox="0 0 10 10" width="9" height="9" aria-hidden="true"><path d={shape} fill-rule="evenodd" /></svg>
      <span>{children}</span>
    </span>
  );
}
export const Success = ({ value }: { value: number | undefined }) => <Mark tone={health(value)}>{value === undefined ? "no traffic" : percent(value)}</Mark>;

export function Tag({ children, tone }: Kids & { tone?: Tone }) {
  return <span class={`tag ${tone ?? ""}`}>{children}</span>;
}

export function Empty({ title, children }: Kids & { title: string }) {
  return <div class="empty"><p class="strong">{title}</p>{children && <p>{children}</p>}</div>;
}

/// What stands in for a view that is not there yet, as high as what will come.
export function Loading({ rows = 6 }: { rows?: number }) {
  return <div class="loading" role="status" aria-label="Loading">{Array.from({ length: rows }, (_, at) => <i style={{ width: `${88 - ((at * 17) % 40)}%` }} />)}</div>;
}

export function Failure({ error, retry }: { error: ApiError; retry?: () => void }) {
  const { message, hint, findings } = error.problem;
  return (
    <div class="failure" role="alert">
      <Mark tone="bad"><span class="strong">{message}</span></Mark>
      {hint && <p class="muted">{hint}</p>}
      {findings && findings.length > 0 && <Findings list={findings} />}
      {retry && <button type="button" onClick={retry}>Try again</button>}
    </div>
  );
}

/// Shows what was asked for, or why it is not there; what is shown stays while it cannot be asked for anew.
export function Ready<T>({ of, children, rows }: { of: Asked<T>; children: (data: T) => ComponentChildren; rows?: number }) {
  if (of.data === undefined) return of.error ? <Failure error={of.error} retry={of.reload} /> : <Loading rows={rows} />;
  return <>{of.error && <Failure error={of.error} retry={of.reload} />}{children(of.data)}</>;
}

export function Findings({ list }: { list: Finding[] }) {
  const tone = { error: "bad", warning: "warn", info: "info" } as const;
  return (
    <ul class="findings">
      {list.map((one) => (
        <li>
          <Mark tone={tone[one.severity]}>{one.severity}</Mark>
          <div>
            <p><Where of={one} />{one.path ? <code>{one.path}</code> : null} {one.message} <span class="muted">[{one.code}]</span></p>
            {one.hint && <p class="muted">{one.hint}</p>}
          </div>
        </li>
      ))}
    </ul>
  );
}
function Where({ of }: { of: Finding }) {
  const { kind, namespace, name, line } = of.origin;
  if (!kind) return line ? <>line {line}: </> : null;
  return <><A href={`/config/${kind}/${namespace || "-"}/${name}`}>{kind} {namespace ? `${namespace}/` : ""}{name}</A>{line ? `, line ${line}` : ""}: </>;
}

/// One of a few, as buttons side by side.
export function Choice({ label, options, value, onPick }: { label: string; options: [string, string][]; value: string; onPick: (value: string) => void }) {
  return (
    <div class="choice" role="group" aria-label={label}>
      {options.map(([key, text]) => <button type="button" aria-pressed={key === value} onClick={() => onPick(key)}>{text}</button>)}
    </div>
  );
}

/// Asks before something is done. What is done says itself what went wrong.
export function Confirm({ title, children, verb, danger, act, close }: Kids & { title: string; verb: string; danger?: boolean; act: () => Promise<void>; close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<ApiError>();
  useEffect(() => { dialog.current?.showModal(); }, []);
  const run = async (event: Event): Promise<void> => {
    event.preventDefault();
    setBusy(true);
    setError(undefined);
    try {
      await act();
      close();
    } catch (failed) {
      setError(failed as ApiError);
      setBusy(false);
    }
  };
  return (
    <dialog ref={dialog} onClose={close} aria-label={title}>
      <form onSubmit={run}>
        <h2>{title}</h2>
        {children}
        {error && <Failure error={error} />}
        <div class="row end">
          <button type="button" onClick={() => dialog.current?.close()}>Cancel</button>
          <button type="submit" class={danger ? "danger" : "primary"} disabled={busy}>{busy ? "Working…" : verb}</button>
        </div>
      </form>
    </dialog>
  );
}

/// A line of text that counts when it is done: what is being typed stays while the page is drawn anew.
export function Typed({ label, value, pick, ...rest }: { label: string; value: string; pick: (text: string) => void; placeholder?: string; size?: number; inputMode?: "numeric" }) {
  const [text, set] = useState(value);
  useEffect(() => set(value), [value]);
  return <input aria-label={label} value={text} onInput={(event) => set(event.currentTarget.value)} onChange={(event) => pick(event.currentTarget.value.trim())} {...rest} />;
}

export function Field({ label, children, hint }: Kids & { label: string; hint?: string }) {
  return <label class="field"><span>{label}</span>{children}{hint && <small>{hint}</small>}</label>;
}

export function Bar({ share, tone }: { share: number; tone?: Tone }) {
  const width = Math.max(0, Math.min(100, share));
  return <svg class={`bar ${tone ?? ""}`} viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true"><rect width="100" height="6" class="rest" /><rect width={width} height="6" /></svg>;
}
