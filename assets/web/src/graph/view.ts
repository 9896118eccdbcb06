// The graph on the screen. Elements are made once for a layout; figures are written into them as they change, so that
// two hundred nodes cost what has changed and no more.
import { count, health, ms, percent, rate } from "../format";
import type { Answer, At } from "./layout.worker";
import type { Call, Graph, Node } from "./model";

const SVG = "http://www.w3.org/2000/svg";
const LOCK = "M-4 -1v5h8v-5ZM-2.6 -1v-1.6a2.6 2.6 0 0 1 5.2 0v1.6h-1.4v-1.5a1.2 1.2 0 0 0-2.4 0v1.5Z";
const OPEN = "M-4 -1v5h8v-5ZM-2.6 -1v-2.6a2.6 2.6 0 0 1 5-1l-1.3.6a1.2 1.2 0 0 0-2.3.4v2.6Z";
export const HEIGHT = 38;
export const widthOf = (node: Node): number => Math.max(96, Math.min(240, node.label.length * 7.4 + 30));
const cut = (text: string): string => text.length > 29 ? `${text.slice(0, 28)}…` : text;

function make(name: string, of: Element, attributes: Record<string, string | number> = {}): SVGElement {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  of.append(element);
  return element;
}

interface DrawnNode { node: Node; at: At; moved: boolean; group: SVGElement; sub: SVGElement; said: string }
interface DrawnCall { call: Call; points: At[]; group: SVGElement; seen: SVGElement; hit: SVGElement; text: SVGElement; label: SVGElement; lock: SVGElement; said: string }
export interface Picked { node?: string; call?: string }

export class View {
  private root: SVGElement;
  private boxes: SVGElement;
  private nodes = new Map<string, DrawnNode>();
  private calls = new Map<string, DrawnCall>();
  private touching = new Map<string, DrawnCall[]>();
  private scale = 1;
  private offset: At = [0, 0];
  private pointers = new Map<number, At>();
  private hold: { node?: DrawnNode; from: At; moved: boolean } | undefined;
  private picked: Picked = {};
  private namespaces: { name: string; rect: SVGElement; text: SVGElement }[] = [];
  private frame = 0;
  private down_ = false;
  /// Where people have put nodes; kept over layouts.
  private put = new Map<string, At>();
  private stop = new AbortController();

  constructor(private svg: SVGSVGElement, private onPick: (picked: Picked) => void) {
    const defs = make("defs", svg);
    for (const tone of ["ok", "warn", "bad", "idle"]) {
      const marker = make("marker", defs, { id: `head-${tone}`, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto" });
      make("path", marker, { d: "M0 0 8 4 0 8Z", class: `tip ${tone}` });
    }
    this.root = make("g", svg);
    this.boxes = make("g", this.root);
    const on = <K extends keyof SVGSVGElementEventMap>(name: K, act: (event: SVGSVGElementEventMap[K]) => void, passive = true): void =>
      svg.addEventListener(name, act as EventListener, { signal: this.stop.signal, passive });
    on("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)), this.inside(event));
    }, false);
    on("pointerdown", (event) => this.down(event));
    on("pointermove", (event) => this.move(event));
    on("pointerup", (event) => this.up(event));
    on("pointercancel", (event) => this.up(event));
    on("keydown", (event) => this.key(event), false);
  }

  destroy(): void {
    this.stop.abort();
    cancelAnimationFrame(this.frame);
    this.svg.replaceChildren();
  }

  /// Draws `graph` where `placed` says.
  draw(graph: Graph, placed: Answer, fit: boolean): void {
    const focused = (document.activeElement as SVGElement | null)?.dataset?.["node"];
    this.down_ = placed.down;
    this.root.replaceChildren();
    this.boxes = make("g", this.root);
    this.nodes.clear();
    this.calls.clear();
    this.touching.clear();
    const edges = make("g", this.root);
    const nodes = make("g", this.root);
    for (const node of graph.nodes) this.addNode(node, nodes, placed);
    for (const call of graph.calls) this.addCall(call, edges, placed);
    this.addBoxes(graph);
    this.update(graph);
    this.spread();
    this.pick(this.picked);
    if (fit) this.fit();
    this.reveal();
    if (focused) this.nodes.get(focused)?.group.focus();
  }

  private addNode(node: Node, into: SVGElement, placed: Answer): void {
    const put = this.put.get(node.id);
    const at = put ?? placed.nodes[node.id] ?? [0, 0];
    const width = widthOf(node);
    const group = make("g", into, { class: "node", tabindex: 0, role: "button", "data-node": node.id });
    make("rect", group, { x: -width / 2, y: -HEIGHT / 2, width, height: HEIGHT, rx: node.service ? 5 : HEIGHT / 2 });
    make("rect", group, { class: "stripe", x: -width / 2 + (node.service ? 5 : 9), y: -8, width: 3, height: 16, rx: 1.5 });
    const left = -width / 2 + (node.service ? 14 : 18);
    make("text", group, { x: left, y: -2 }).textContent = cut(node.label);
    const sub = make("text", group, { class: "sub", x: left, y: 12 });
    const drawn = { node, at, moved: put !== undefined, group, sub, said: "" };
    this.nodes.set(node.id, drawn);
    group.setAttribute("transform", `translate(${at[0]} ${at[1]})`);
  }

  private addCall(call: Call, into: SVGElement, placed: Answer): void {
    const group = make("g", into, { class: "edge", "data-call": call.id });
    const seen = make("path", group, { class: "seen" });
    const hit = make("path", group, { class: "hit" });
    const label = make("g", group);
    const text = make("text", label, { y: -5 });
    const lock = make("path", label, { class: "lock", d: LOCK, transform: "translate(0 7)" });
    const drawn = { call, points: placed.edges[call.id] ?? [], group, seen, hit, text, label, lock, said: "" };
    this.calls.set(call.id, drawn);
    for (const end of new Set([call.from, call.to])) this.touching.set(end, [...this.touching.get(end) ?? [], drawn]);
    this.route(drawn);
  }

  private route(drawn: DrawnCall): void {
    const from = this.nodes.get(drawn.call.from), to = this.nodes.get(drawn.call.to);
    if (!from || !to) return;
    const half = (node: Node): number => widthOf(node) / 2;
    let path: string, middle: At;
    if (from === to) {
      const [x, y] = from.at;
      path = `M${x + 14} ${y - HEIGHT / 2}c0 -40 -28 -40 -28 0`;
      middle = [x, y - HEIGHT / 2 - 28];
    } else if (from.moved || to.moved || drawn.points.length < 2) {
      const along = this.down_ ? 1 : 0;
      const back = to.at[along] < from.at[along];
      const a: At = [from.at[0] + (back ? -1 : 1) * half(from.node), from.at[1]];
      const b: At = [to.at[0] - (back ? -1 : 1) * half(to.node), to.at[1]];
      if (this.down_) {
        a[0] = from.at[0];
        b[0] = to.at[0];
        a[1] += (back ? -1 : 1) * HEIGHT / 2;
        b[1] -= (back ? -1 : 1) * HEIGHT / 2;
      }
      const bend = this.down_ ? 0 : Math.max(30, Math.abs(b[0] - a[0]) / 2) * (back ? -1 : 1);
      const sink = this.down_ ? Math.max(20, Math.abs(b[1] - a[1]) / 2) * (back ? -1 : 1) : 0;
      path = `M${a[0]} ${a[1]}C${a[0] + bend} ${a[1] + sink} ${b[0] - bend} ${b[1] - sink} ${b[0]} ${b[1]}`;
      middle = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
    } else {
      const points = drawn.points;
      const n = (value: number): string => value.toFixed(1);
      const first = points[0] as At, last = points.at(-1) as At;
      path = `M${n(first[0])} ${n(first[1])}`;
      for (let at = 1; at < points.length - 1; at++) {
        const here = points[at] as At, next = points[at + 1] as At;
        const end = at === points.length - 2 ? last : [(here[0] + next[0]) / 2, (here[1] + next[1]) / 2] as At;
        path += `Q${n(here[0])} ${n(here[1])} ${n(end[0])} ${n(end[1])}`;
      }
      if (points.length === 2) path += `L${n(last[0])} ${n(last[1])}`;
      middle = points[Math.floor(points.length / 2)] as At;
      if (points.length % 2 === 0) {
        const before = points[points.length / 2 - 1] as At;
        middle = [(before[0] + middle[0]) / 2, (before[1] + middle[1]) / 2];
      }
    }
    drawn.seen.setAttribute("d", path);
    drawn.hit.setAttribute("d", path);
    drawn.label.setAttribute("transform", `translate(${middle[0].toFixed(1)} ${middle[1].toFixed(1)})`);
  }

  /// Moves labels along their lines where they would lie over each other or over a node.
  private spread(): void {
    if (this.calls.size > 200) return;
    type Box = [number, number, number, number];
    const taken: Box[] = [...this.nodes.values()].map(({ node, at: [x, y] }) => [x - widthOf(node) / 2, y - HEIGHT / 2, x + widthOf(node) / 2, y + HEIGHT / 2]);
    const over = (a: Box, b: Box): number => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
    for (const drawn of this.calls.values()) {
      const line = drawn.seen as SVGPathElement;
      const length = line.getTotalLength();
      const half = Math.max(10, (drawn.text.textContent?.length ?? 0) * 2.9);
      let best: { at: At; box: Box; cost: number } | undefined;
      for (const share of [0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8]) {
        const { x, y } = line.getPointAtLength(length * share);
        const box: Box = [x - half, y - 15, x + half, y + 13];
        const cost = taken.reduce((all, one) => all + over(box, one), 0);
        if (!best || cost < best.cost) best = { at: [x, y], box, cost };
        if (cost === 0) break;
      }
      if (!best) continue;
      taken.push(best.box);
      drawn.label.setAttribute("transform", `translate(${best.at[0].toFixed(1)} ${best.at[1].toFixed(1)})`);
    }
  }

  private addBoxes(graph: Graph): void {
    const names = [...new Set(graph.nodes.map((node) => node.namespace).filter(Boolean))];
    this.namespaces = names.map((name) => {
      const group = make("g", this.boxes, { class: "ns" });
      const rect = make("rect", group, { rx: 8 });
      const text = make("text", group);
      text.textContent = name;
      return { name, rect, text };
    });
    this.frameBoxes();
  }

  private frameBoxes(): void {
    for (const box of this.namespaces) {
      let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
      for (const { node, at } of this.nodes.values()) {
        if (node.namespace !== box.name) continue;
        left = Math.min(left, at[0] - widthOf(node) / 2);
        right = Math.max(right, at[0] + widthOf(node) / 2);
        top = Math.min(top, at[1]);
        bottom = Math.max(bottom, at[1]);
      }
      const [x, y] = [left - 14, top - HEIGHT / 2 - 26];
      for (const [key, value] of Object.entries({ x, y, width: right - left + 28, height: bottom - top + HEIGHT + 40 })) box.rect.setAttribute(key, String(value));
      box.text.setAttribute("x", String(x + 10));
      box.text.setAttribute("y", String(y + 16));
    }
  }

  /// Writes new figures into what is drawn.
  update(graph: Graph): void {
    for (const node of graph.nodes) {
      const drawn = this.nodes.get(node.id);
      if (!drawn) continue;
      const tone = health(node.success);
      const sub = node.service ? (node.rps > 0 ? `${rate(node.rps)}  ${node.success === undefined ? "" : percent(node.success)}` : "no traffic") : node.namespace ? "workload" : "";
      const said = `${tone}|${sub}`;
      if (drawn.said === said) continue;
      drawn.said = said;
      drawn.sub.textContent = sub;
      drawn.group.classList.remove("ok", "warn", "bad", "idle");
      drawn.group.classList.add(tone);
    }
    for (const call of graph.calls) {
      const drawn = this.calls.get(call.id);
      if (!drawn) continue;
      const tone = call.rps > 0 ? call.success === undefined ? "ok" : health(call.success) : "idle";
      const text = call.rps > 0 ? `${count(call.rps)}/s${call.p99 === undefined ? "" : `  ${ms(call.p99)}`}${call.success !== undefined && call.success < 99.5 ? `  ${percent(call.success)}` : ""}` : "";
      const said = `${tone}|${text}|${call.secure}`;
      if (drawn.said === said) continue;
      drawn.said = said;
      drawn.call = call;
      drawn.text.textContent = text;
      drawn.seen.setAttribute("marker-end", `url(#head-${tone})`);
      drawn.group.classList.remove("ok", "warn", "bad", "idle");
      drawn.group.classList.add(tone);
      drawn.lock.setAttribute("class", call.secure === "all" ? "lock" : "open");
      drawn.lock.setAttribute("d", call.secure === "all" ? LOCK : OPEN);
      drawn.lock.style.display = call.secure === "" || call.rps === 0 ? "none" : "";
    }
  }

  pick(picked: Picked): void {
    const other = picked.node !== this.picked.node;
    this.picked = picked;
    if (other) this.reveal();
    const call = picked.call ? this.calls.get(picked.call)?.call : undefined;
    const lit = new Set<string>();
    if (picked.node) lit.add(picked.node);
    if (call) lit.add(call.from).add(call.to);
    for (const { call: one } of this.calls.values()) if (picked.node && (one.from === picked.node || one.to === picked.node)) lit.add(one.from).add(one.to);
    const some = lit.size > 0 && (this.nodes.has(picked.node ?? "") || call !== undefined);
    for (const [id, drawn] of this.nodes) {
      drawn.group.classList.toggle("picked", id === picked.node);
      drawn.group.classList.toggle("dim", some && !lit.has(id));
    }
    for (const [id, drawn] of this.calls) {
      const near = id === picked.call || drawn.call.from === picked.node || drawn.call.to === picked.node;
      drawn.group.classList.toggle("picked", id === picked.call);
      drawn.group.classList.toggle("dim", some && !near);
    }
  }

  /// Brings what is picked out from below the panel that tells of it.
  private reveal(): void {
    const at = this.nodes.get(this.picked.node ?? "")?.at;
    const { clientWidth: width } = this.svg;
    if (!at || width < 700) return;
    const beyond = at[0] * this.scale + this.offset[0] - (width - 440);
    if (beyond <= 0) return;
    this.offset = [this.offset[0] - beyond, this.offset[1]];
    this.show();
  }

  /// Shows everything.
  fit(): void {
    let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
    for (const { node, at } of this.nodes.values()) {
      left = Math.min(left, at[0] - widthOf(node) / 2 - 20);
      right = Math.max(right, at[0] + widthOf(node) / 2 + 20);
      top = Math.min(top, at[1] - HEIGHT / 2 - 32);
      bottom = Math.max(bottom, at[1] + HEIGHT / 2 + 20);
    }
    if (left > right) return;
    const width = this.svg.clientWidth;
    // The buttons below are not to lie over it.
    const height = this.svg.clientHeight - 40;
    this.scale = Math.max(0.08, Math.min(1.15, width / (right - left), height / (bottom - top)));
    this.offset = [(width - (left + right) * this.scale) / 2, (height - (top + bottom) * this.scale) / 2];
    this.show();
  }

  zoom(by: number, around: At = [this.svg.clientWidth / 2, this.svg.clientHeight / 2]): void {
    const scale = Math.max(0.08, Math.min(3, this.scale * by));
    const real = scale / this.scale;
    this.offset = [around[0] - (around[0] - this.offset[0]) * real, around[1] - (around[1] - this.offset[1]) * real];
    this.scale = scale;
    this.show();
  }

  private show(): void {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.root.setAttribute("transform", `translate(${this.offset[0]} ${this.offset[1]}) scale(${this.scale})`);
      // Nobody reads words this small, and drawing them is most of the work.
      this.root.classList.toggle("far", this.scale < 0.5);
      this.root.classList.toggle("tiny", this.scale < 0.26);
    });
  }

  private inside(event: { clientX: number; clientY: number }): At {
    const box = this.svg.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  private down(event: PointerEvent): void {
    if (event.button !== 0) return;
    this.pointers.set(event.pointerId, this.inside(event));
    const id = (event.target as Element).closest<SVGElement>(".node")?.dataset["node"];
    this.hold = { node: id === undefined ? undefined : this.nodes.get(id), from: this.inside(event), moved: false };
    this.svg.setPointerCapture(event.pointerId);
  }

  private move(event: PointerEvent): void {
    const before = this.pointers.get(event.pointerId);
    if (!before || !this.hold) return;
    const now = this.inside(event);
    if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1] ?? before;
      const length = (a: At, b: At): number => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
      this.zoom(length(now, other) / length(before, other), [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2]);
      this.hold.moved = true;
    } else {
      if (!this.hold.moved && Math.hypot(now[0] - this.hold.from[0], now[1] - this.hold.from[1]) < 4) return;
      this.hold.moved = true;
      this.svg.classList.add("dragging");
      const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
      const { node } = this.hold;
      if (node) this.shift(node, dx / this.scale, dy / this.scale);
      else {
        this.offset = [this.offset[0] + dx, this.offset[1] + dy];
        this.show();
      }
    }
    this.pointers.set(event.pointerId, now);
  }

  private shift(drawn: DrawnNode, dx: number, dy: number): void {
    drawn.at = [drawn.at[0] + dx, drawn.at[1] + dy];
    drawn.moved = true;
    this.put.set(drawn.node.id, drawn.at);
    drawn.group.setAttribute("transform", `translate(${drawn.at[0]} ${drawn.at[1]})`);
    for (const call of this.touching.get(drawn.node.id) ?? []) this.route(call);
    this.frameBoxes();
  }

  private up(event: PointerEvent): void {
    this.pointers.delete(event.pointerId);
    this.svg.classList.remove("dragging");
    const held = this.hold;
    if (this.pointers.size > 0 || !held) return;
    this.hold = undefined;
    if (held.moved || event.type === "pointercancel") return;
    // The pointer is ours while it is down, so what lies under it has to be looked up.
    const under = document.elementFromPoint(event.clientX, event.clientY);
    const call = under?.closest<SVGElement>(".edge")?.dataset["call"];
    this.onPick(held.node ? { node: held.node.node.id } : call ? { call } : {});
  }

  private key(event: KeyboardEvent): void {
    const id = (event.target as SVGElement).dataset["node"];
    const step = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (id !== undefined && (event.key === "Enter" || event.key === " ")) this.onPick({ node: id });
    else if (event.key === "Escape") this.onPick({});
    else if (event.key === "+" || event.key === "=") this.zoom(1.25);
    else if (event.key === "-") this.zoom(0.8);
    else if (event.key === "0") this.fit();
    else if (step) {
      const drawn = id !== undefined && event.altKey ? this.nodes.get(id) : undefined;
      if (drawn) this.shift(drawn, -(step[0] ?? 0) * 20, -(step[1] ?? 0) * 20);
      else {
        this.offset = [this.offset[0] + (step[0] ?? 0) * 60, this.offset[1] + (step[1] ?? 0) * 60];
        this.show();
      }
    } else return;
    event.preventDefault();
  }
}
