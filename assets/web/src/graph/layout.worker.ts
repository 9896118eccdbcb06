// Where nodes stand; off the page's thread, since a large graph takes seconds.
import { graphlib, layout } from "@dagrejs/dagre";

export interface Question { key: string; width: number; height: number; nodes: { id: string; width: number; height: number; namespace: string }[]; edges: { id: string; from: string; to: string }[] }
export type At = [number, number];
export interface Answer { key: string; down: boolean; size: At; nodes: Record<string, At>; edges: Record<string, At[]> }

function place(question: Question, boxes: boolean, down: boolean): Answer {
  const graph = new graphlib.Graph({ compound: boxes, multigraph: false });
  graph.setGraph({
    rankdir: down ? "TB" : "LR", nodesep: 26, // Boxes bring ranks of their own, which are gaps as well.
    ranksep: (down ? 74 : 126) * (boxes ? 0.55 : 1), edgesep: 14, marginx: 20, marginy: 20, ranker: question.nodes.length > 120 ? "longest-path" : "network-simplex",
  });
  graph.setDefaultEdgeLabel(() => ({}));
  const spaces = new Set(question.nodes.map((node) => node.namespace));
  if (boxes) for (const space of spaces) if (space) graph.setNode(`ns/${space}`, {});
  for (const node of question.nodes) {
    graph.setNode(node.id, { width: node.width, height: node.height });
    if (boxes && node.namespace) graph.setParent(node.id, `ns/${node.namespace}`);
  }
  for (const edge of question.edges) if (edge.from !== edge.to) graph.setEdge(edge.from, edge.to);
  layout(graph);
  const whole = graph.graph();
  const answer: Answer = { key: question.key, down, size: [whole.width ?? 0, whole.height ?? 0], nodes: {}, edges: {} };
  for (const node of question.nodes) {
    const at = graph.node(node.id);
    answer.nodes[node.id] = [at.x ?? 0, at.y ?? 0];
  }
  for (const edge of question.edges) {
    const points = edge.from === edge.to ? [] : graph.edge(edge.from, edge.to).points ?? [];
    answer.edges[edge.id] = points.map((point: { x: number; y: number }): At => [point.x, point.y]);
  }
  return answer;
}

addEventListener("message", (event: MessageEvent<Question>) => {
  const question = event.data;
  const spaces = new Set(question.nodes.map((node) => node.namespace).filter(Boolean));
  const attempt = (down: boolean): Answer => {
    try {
      return place(question, spaces.size > 1, down);
    } catch {
      // Boxes that cannot be kept apart are left out; what calls whom is what counts.
      return place(question, false, down);
    }
  };
  const scale = ({ size }: Answer): number => Math.min(1, question.width / size[0], question.height / size[1]);
  const across = attempt(false);
  // What becomes too small to read that way may fit the other way; large graphs are not worth the time.
  const down = scale(across) < 0.8 && question.nodes.length <= 80 ? attempt(true) : undefined;
  postMessage(down && scale(down) > scale(across) * 1.15 ? down : across);
});
