// All of graphlib that dagre's ranks need beside the graph itself: walks of a tree in order. The whole of it would be
// 6 KB of paths and components that nobody asks for.
export { Graph } from "@dagrejs/graphlib/dist/graphlib.esm.js";

function walk(graph, from, after) {
  const seen = new Set(), order = [];
  const next = (graph.isDirected() ? graph.successors : graph.neighbors).bind(graph);
  const visit = (node) => {
    if (seen.has(node)) return;
    seen.add(node);
    if (!after) order.push(node);
    for (const other of next(node) ?? []) visit(other);
    if (after) order.push(node);
  };
  for (const node of [from].flat()) visit(node);
  return order;
}
export const alg = { preorder: (graph, from) => walk(graph, from, false), postorder: (graph, from) => walk(graph, from, true) };
