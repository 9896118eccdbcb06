// Charts: uPlot in the page's colours, and lines as small as words.
import { state } from "./state";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { clock } from "./format";

const dark = matchMedia("(prefers-color-scheme: dark)");
/// Counts changes of colours, which uPlot has to be told.
export const painted = state(0);
export const repaint = (): void => { painted.value++; };
dark.addEventListener("change", repaint);

export const colour = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export interface Line { label: string; values: (number | null | undefined)[]; ink: string; dash?: boolean; fill?: boolean }

export function Chart({ times, lines, format, label, bound, zero = true, most, height = 150 }: {
  times: number[]; lines: Line[]; format: (value: number) => string; label: string;
  bound?: number; zero?: boolean; most?: number; height?: number;
}) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(undefined);
  const shape = lines.map((line) => line.label + line.ink).join() + painted.value + (bound !== undefined);
  const data = [times.map((at) => at / 1000), ...lines.map((line) => line.values), ...(bound === undefined ? [] : [times.map(() => bound)])] as uPlot.AlignedData;
  useEffect(() => {
    const place = box.current;
    if (!place) return;
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { stroke: colour("muted"), font, grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false } };
    const options: uPlot.Options = {
      width: place.clientWidth || 300, height,
      cursor: { points: { size: 6 }, drag: { x: false, y: false } },
      padding: [8, 18, 0, 0],
      legend: { show: true, live: true, markers: { width: 0, fill: (_u, at) => colour(lines[at - 1]?.ink ?? "bad") } },
      hooks: { setCursor: [(u) => { if (u.cursor.idx == null) u.setLegend({ idx: (u.data[0]?.length ?? 1) - 1 }); }] },
      scales: {
        y: { range: (_u, low, high) => {
          const top = Math.max(high ?? 0, bound ?? 0);
          if (most !== undefined) return [Math.max(0, Math.min(low ?? most, bound ?? most) - 0.5), most];
          return [zero ? 0 : Math.min(low ?? 0, bound ?? Infinity), top > 0 ? top * 1.12 : 1];
        } },
      },
      axes: [
        { ...axis, values: (_u, ticks) => ticks.map((tick) => clock(tick * 1000).slice(0, 5)), space: 60, size: 24 },
        { ...axis, values: (_u, ticks) => ticks.map(format), size: 58, space: 34 },
      ],
      series: [
        { label: "time", value: (_u, at) => at == null ? "–" : clock(at * 1000) },
        ...lines.map((line) => ({
          label: line.label, stroke: colour(line.ink), width: 1.5, dash: line.dash ? [4, 3] : undefined,
          fill: line.fill ? colour("wash") : undefined, points: { show: false }, spanGaps: false,
          value: (_u: uPlot, value: number | null) => value == null ? "–" : format(value),
        })),
        ...(bound === undefined ? [] : [{ label: "bound", stroke: colour("bad"), width: 1, dash: [2, 3], points: { show: false }, value: (_u: uPlot, value: number | null) => value == null ? "–" : format(value) }]),
      ],
    };
    const made = new uPlot(options, data, place);
    plot.current = made;
    const sized = new ResizeObserver(() => made.setSize({ width: place.clientWidth, height }));
    sized.observe(place);
    return () => {
      sized.disconnect();
      made.destroy();
      plot.current = undefined;
    };
  }, [shape, height]);
  useEffect(() => {
    plot.current?.setData(data);
    if (plot.current?.cursor.idx == null) plot.current?.setLegend({ idx: times.length - 1 });
  });
  const last = lines.map((line) => {
    const value = line.values.findLast((one) => one != null);
    return `${line.label} ${value == null ? "no value" : format(value)}`;
  });
  return <div class="chart" ref={box} role="img" aria-label={`${label}, last: ${last.join(", ")}`} style={{ minHeight: `${height + 24}px` }} />;
}

/// A line without axes, for tables and tiles; it says nothing that is not written beside it.
export function Spark({ values, ink = "accent", low = 0, high }: { values: (number | null | undefined)[]; ink?: string; low?: number; high?: number }) {
  const known = values.filter((value): value is number => value != null);
  const top = high ?? Math.max(...known, 0);
  const range = top - low || 1;
  let path = "", pen = false;
  values.forEach((value, at) => {
    if (value == null) {
      pen = false;
      return;
    }
    const x = values.length > 1 ? (at / (values.length - 1)) * 100 : 100;
    path += `${pen ? "L" : "M"}${x.toFixed(1)} ${(21 - Math.max(0, Math.min(1, (value - low) / range)) * 18).toFixed(1)}`;
    pen = true;
  });
  return <svg class="spark" viewBox="0 0 100 24" preserveAspectRatio="none" aria-hidden="true"><path d={path} style={{ stroke: `var(--${ink})` }} /></svg>;
}
