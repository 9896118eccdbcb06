// Requests to the API, with the secret of the link that opened this page.
import { state } from "./state";
import { useEffect, useRef, useState } from "preact/hooks";
import type { About, Problem, Role } from "./types";

const KEPT = "meshctl.session";

/// The secret comes in the fragment, which goes to no server, and stays in this window alone.
function taken(): string {
  const found = /(?:^#|&)session=([0-9a-f]{64})/.exec(location.hash);
  if (found?.[1]) {
    sessionStorage.setItem(KEPT, found[1]);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(KEPT) ?? "";
}
let secret = taken();
// A link that is pasted into a window that shows the page already.
addEventListener("hashchange", () => {
  const before = secret;
  secret = taken();
  if (secret !== before) location.reload();
});

export class ApiError extends Error {
  constructor(readonly status: number, readonly problem: Problem) {
    super(problem.message);
  }
}

export const about = state<About | undefined>(undefined);
export const role = state<Role>("viewer");
/// Why nothing can be shown at all, if so.
export const locked = state<"" | "secret" | "away">("");
/// Parts of the API that other versions of the control plane may lack.
export const has = state({ series: false, tap: false, traces: false, rollouts: false, matrix: false, resources: false });

export const mayChange = (): boolean => role.value !== "viewer" && !about.value?.readOnly;

async function send(method: string, path: string, body?: unknown, stop?: AbortSignal): Promise<Response> {
  const headers: Record<string, string> = { "x-meshctl-session": secret };
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer: Response;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal: stop });
  } catch (error) {
    if (stop?.aborted) throw error;
    locked.value = "away";
    throw new ApiError(0, { reason: "unknown", message: "meshctl dashboard does not answer", hint: "it may have been ended; start it again" });
  }
  if (answer.status === 401 && path !== "/session") locked.value = "secret";
  else if (locked.value === "away") locked.value = "";
  if (answer.ok) return answer;
  let problem: Problem;
  try {
    problem = await answer.json() as Problem;
    if (!problem.message) throw new Error();
  } catch {
    problem = { reason: "internal", message: `the control plane answered with status ${answer.status}` };
  }
  throw new ApiError(answer.status, problem);
}

const PREFIX = "/api/v1";

export async function get<T>(path: string, stop?: AbortSignal): Promise<T> {
  return await (await send("GET", PREFIX + path, undefined, stop)).json() as T;
}
export async function post<T>(path: string, body: unknown = {}): Promise<T> {
  const text = await (await send("POST", PREFIX + path, body)).text();
  return (text ? JSON.parse(text) : null) as T;
}
export async function remove<T>(path: string): Promise<T> {
  const text = await (await send("DELETE", PREFIX + path)).text();
  return (text ? JSON.parse(text) : null) as T;
}

/// Reads JSON lines as they come, until `stop` is aborted or the other side ends.
export async function lines<T>(path: string, each: (value: T) => void, stop: AbortSignal): Promise<void> {
  const answer = await send("GET", PREFIX + path, undefined, stop);
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (reader) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop() ?? "";
    for (const part of parts) if (part.trim()) each(JSON.parse(part) as T);
  }
}

/// A path from raw segments and those parameters that have a value.
export function url(path: string, query: Record<string, string | number | undefined | false> = {}): string {
  const kept = Object.entries(query).filter(([, value]) => value !== undefined && value !== "" && value !== false);
  const text = kept.map(([key, value]) => `${key}=${encodeURIComponent(String(value))}`).join("&");
  return text ? `${path}?${text}` : path;
}

/// Finds out who we are and what the control plane can; whatever it lacks is not shown.
export async function begin(): Promise<void> {
  if (!secret) {
    locked.value = "secret";
    return;
  }
  try {
    const told = await (await send("GET", "/session")).json() as About & { has: typeof has.value };
    has.value = told.has;
    about.value = told;
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) locked.value = "secret";
    return;
  }
  document.title = `${about.value.context} · meshctl`;
  const who = await get<{ role: Role }>("/access/self").catch(() => ({ role: "viewer" as Role }));
  role.value = who.role;
}

export interface Asked<T> { data?: T; error?: ApiError; reload: () => void }

/// What `path` answers, asked again every `everyMs` while somebody looks; what was last known stays when it fails.
export function useApi<T>(path: string | undefined, everyMs = 5000): Asked<T> {
  const [state, set] = useState<{ path?: string; data?: T; error?: ApiError }>({});
  const again = useRef<() => void>(() => {});
  useEffect(() => {
    if (path === undefined) return;
    const stop = new AbortController();
    let timer = 0;
    const run = async (): Promise<void> => {
      clearTimeout(timer);
      if (!document.hidden) {
        try {
          const data = await get<T>(path, stop.signal);
          if (!stop.signal.aborted) set({ path, data });
        } catch (error) {
          if (stop.signal.aborted) return;
          const known = error instanceof ApiError ? error : new ApiError(0, { reason: "internal", message: String(error) });
          set((last) => ({ path, data: last.path?.split("?")[0] === path.split("?")[0] ? last.data : undefined, error: known }));
        }
      }
      if (everyMs > 0 && !stop.signal.aborted) timer = setTimeout(run, everyMs);
    };
    again.current = () => { void run(); };
    void run();
    const seen = (): void => { if (!document.hidden) void run(); };
    document.addEventListener("visibilitychange", seen);
    return () => {
      stop.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [path, everyMs]);
  // What another window of time said stays until the new one is there, so that nothing jumps.
  const base = (of: string | undefined): string | undefined => of?.split("?")[0];
  const fits = path !== undefined && base(state.path) === base(path);
  return { data: fits ? state.data : undefined, error: fits ? state.error : undefined, reload: () => again.current() };
}
