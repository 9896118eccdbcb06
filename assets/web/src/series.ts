// Figures over time: what the control plane keeps, or, where it keeps none, what this page has seen.
import { useEffect, useState } from "preact/hooks";
import { get, has, url, useApi, type Asked } from "./api";
import type { Point, Series, SeriesRow, Stats } from "./types";

/// Seconds that one look is about, and between two looks.
const LOOK = 5;
const KEPT = 720;
const seen = new Map<string, Point[]>();
const told = new Set<() => void>();
let looking = 0;

async function look(): Promise<void> {
  if (!document.hidden) {
    try {
      const stats = await get<Stats>(url("/stats", { window: LOOK, by: "service" }));
      const rows = new Map(stats.rows.map((row) => [row.service, row]));
      for (const service of new Set([...rows.keys(), ...seen.keys()])) {
        const row = rows.get(service);
        const points = seen.get(service) ?? [];
        points.push({
          atUnixMs: stats.atUnixMs, requests: row?.requests ?? 0,
          failures: Math.round((row?.requests ?? 0) * (100 - (row?.successPercent ?? 100)) / 100),
          latencyP50Ms: row?.latencyP50Ms, latencyP95Ms: row?.latencyP95Ms, latencyP99Ms: row?.latencyP99Ms,
        });
        if (points.length > KEPT) points.shift();
        seen.set(service, points);
      }
      for (const tell of told) tell();
    } catch {
      // A gap in what was seen; the view itself says that nobody answers.
    }
  }
  looking = told.size > 0 ? setTimeout(look, LOOK * 1000) : 0;
}

function useSeen(on: boolean, service: string | undefined): Series | undefined {
  const [, set] = useState(0);
  useEffect(() => {
    if (!on) return;
    const tell = (): void => set((n) => n + 1);
    told.add(tell);
    if (!looking) looking = setTimeout(look, 0);
    return () => { told.delete(tell); };
  }, [on]);
  if (!on || seen.size === 0) return undefined;
  const rows: SeriesRow[] = [...seen].filter(([name]) => !service || name === service)
    .map(([name, points]) => ({ service: name, version: "", source: "", route: "", points: [...points] }));
  const all = rows.flatMap((row) => row.points.map((point) => point.atUnixMs));
  return { stepSeconds: LOOK, fromUnixMs: Math.min(...all), toUnixMs: Math.max(...all), rows };
}

export function useSeries(query: { window: number; step: number; service?: string; by?: string }): Asked<Series> {
  const there = has.value.series;
  const kept = useApi<Series>(there ? url("/series", query) : undefined, Math.max(2000, Math.min(query.step * 1000, 15_000)));
  const local = useSeen(!there && (query.by ?? "service") === "service", query.service);
  return there ? kept : { data: local, reload: () => {} };
}

/// What is counted reaches the control plane so much later, in milliseconds.
const LATE = 15_000;

/// The whole steps of a series, one value each; a step without a point has no requests.
export function even(series: Series, points: Point[]): Point[] {
  if (!has.value.series) return points;
  const step = series.stepSeconds * 1000;
  const at = new Map(points.map((point) => [point.atUnixMs, point]));
  // The newest steps of which nobody has told yet are not steps without requests.
  const newest = Math.max(0, ...series.rows.map((row) => row.points.at(-1)?.atUnixMs ?? 0));
  const end = series.toUnixMs - newest < LATE + step ? newest + step : series.toUnixMs;
  const out: Point[] = [];
  for (let time = series.fromUnixMs; time + step <= Math.min(end, series.toUnixMs); time += step) out.push(at.get(time) ?? { atUnixMs: time, requests: 0, failures: 0 });
  return out;
}

/// Requests and failures of several rows, step by step.
export function sum(rows: SeriesRow[]): Point[] {
  const all = new Map<number, Point>();
  for (const row of rows) {
    for (const point of row.points) {
      const one = all.get(point.atUnixMs) ?? { atUnixMs: point.atUnixMs, requests: 0, failures: 0 };
      one.requests += point.requests;
      one.failures += point.failures;
      all.set(point.atUnixMs, one);
    }
  }
  return [...all.values()].sort((a, b) => a.atUnixMs - b.atUnixMs);
}

export const perSecond = (point: Point, step: number): number => point.requests / step;
export const success = (point: Point): number | null => point.requests > 0 ? 100 * (1 - point.failures / point.requests) : null;
