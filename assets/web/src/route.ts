// Where the page is: the path and the query of the address, so that every view has a link.
import { state } from "./state";

export interface Place { path: string; query: URLSearchParams }

const read = (): Place => ({ path: decodeURI(location.pathname), query: new URLSearchParams(location.search) });

export const place = state<Place>(read());

addEventListener("popstate", () => { place.value = read(); });

export function go(to: string, replace = false): void {
  const here = place.value.path;
  if (replace) history.replaceState(null, "", to);
  else history.pushState(null, "", to);
  place.value = read();
  if (place.value.path !== here) {
    scrollTo(0, 0);
    // Who uses a screen reader or the keyboard begins at the new page, not where the link was.
    requestAnimationFrame(() => document.querySelector<HTMLElement>("h1")?.focus());
  }
}

/// Changes parts of the query; an empty value takes one out.
export function ask(changes: Record<string, string | undefined>): void {
  const query = new URLSearchParams(place.value.query);
  for (const [key, value] of Object.entries(changes)) {
    if (value) query.set(key, value);
    else query.delete(key);
  }
  const text = query.toString();
  go(place.value.path + (text ? `?${text}` : ""), true);
}

export const asked = (key: string): string => place.value.query.get(key) ?? "";
