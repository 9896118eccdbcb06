// Numbers and times for people: as many digits as say something, always with the unit.

export function count(value: number | undefined): string {
  if (value === undefined) return "–";
  if (value === 0) return "0";
  if (value >= 999_500) return `${(value / 1e6).toFixed(value < 1e7 ? 1 : 0)}M`;
  if (value >= 9_995) return `${(value / 1e3).toFixed(value < 1e5 ? 1 : 0)}k`;
  if (value >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}
export const rate = (value: number | undefined): string => value === undefined ? "–" : `${count(value)}/s`;
export function percent(value: number | undefined): string {
  if (value === undefined) return "–";
  if (value === 100 || value === 0) return `${value}%`;
  // 99.996 is not all of them.
  const text = value.toFixed(value > 99 || value < 1 ? 2 : 1);
  return `${text === "100.00" ? "99.99" : text}%`;
}
export function ms(value: number | undefined): string {
  if (value === undefined) return "–";
  if (value >= 9_950) return `${(value / 1000).toFixed(1)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return value >= 100 ? `${value.toFixed(0)} ms` : value >= 10 ? `${value.toFixed(1)} ms` : `${value.toFixed(2)} ms`;
}
export function bytes(value: number): string {
  if (value < 1000) return `${value} B`;
  if (value < 1e6) return `${(value / 1e3).toFixed(1)} kB`;
  return value < 1e9 ? `${(value / 1e6).toFixed(1)} MB` : `${(value / 1e9).toFixed(1)} GB`;
}
/// How long, in its two largest units at most.
export function span(milliseconds: number): string {
  const s = Math.round(Math.abs(milliseconds) / 1000);
  if (s < 60) return `${s}s`;
  if (s < 3600) return s % 60 && s < 600 ? `${Math.floor(s / 60)}m ${s % 60}s` : `${Math.floor(s / 60)}m`;
  if (s < 86_400) return Math.floor(s / 60) % 60 ? `${Math.floor(s / 3600)}h ${Math.floor(s / 60) % 60}m` : `${Math.floor(s / 3600)}h`;
  return `${Math.floor(s / 86_400)}d${s < 10 * 86_400 && Math.floor(s / 3600) % 24 ? ` ${Math.floor(s / 3600) % 24}h` : ""}`;
}
export const ago = (at: number, now = Date.now()): string => at > now ? `in ${span(at - now)}` : `${span(now - at)} ago`;
export function clock(at: number, millis = false): string {
  const date = new Date(at);
  const two = (n: number): string => String(n).padStart(2, "0");
  const text = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return millis ? `${text}.${String(date.getMilliseconds()).padStart(3, "0")}` : text;
}
export function stamp(at: number): string {
  const date = new Date(at);
  const two = (n: number): string => String(n).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(at)}`;
}
/// How well a share of good answers is.
export const health = (success: number | undefined): "ok" | "warn" | "bad" | "idle" =>
  success === undefined ? "idle" : success >= 99.5 ? "ok" : success >= 95 ? "warn" : "bad";
/// A word of a command line, in quotes where a shell would read more into it.
export const word = (text: string): string => /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
/// `reviews.default` is `reviews` in namespace `default`; a namespace has no dots.
export function split(qualified: string): { name: string; namespace: string } {
  const at = qualified.lastIndexOf(".");
  return at < 0 ? { name: qualified, namespace: "" } : { name: qualified.slice(0, at), namespace: qualified.slice(at + 1) };
}
