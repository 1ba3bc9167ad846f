// The document as it was embedded, indexed for drawing, and the little state there is: which node is selected, and
// whether heat maps show the circuit or the full model. The selected node lives in the URL hash, so a link keeps it.

export const doc = JSON.parse(document.getElementById("document").textContent);

// Connections per node: edges, token edges and residual links, strongest first.
export const nodes = doc.nodes.map((node, index) => ({ ...node, index, ins: [], outs: [], degree: 0 }));
for (const edge of doc.edges) {
  nodes[edge.source].outs.push({ kind: "edge", node: edge.target, weight: edge.weight });
  nodes[edge.target].ins.push({ kind: "edge", node: edge.source, weight: edge.weight });
  nodes[edge.source].degree += 1;
  nodes[edge.target].degree += 1;
}
for (const edge of doc.embed) nodes[edge.node].ins.push({ kind: "token", text: edge.text, weight: edge.weight });
for (const edge of doc.unembed) nodes[edge.node].outs.push({ kind: "token", text: edge.text, weight: edge.weight });
for (const link of doc.links) {
  nodes[link.source].outs.push({ kind: "link", node: link.target });
  nodes[link.target].ins.push({ kind: "link", node: link.source });
}
for (const link of doc.shared) nodes[link.target].ins.push({ kind: "shared", node: link.source });
for (const node of nodes) {
  for (const list of [node.ins, node.outs]) list.sort((a, b) => Math.abs(b.weight ?? 0) - Math.abs(a.weight ?? 0));
}

// Most important first; nodes without a measured effect keep the order of the forward pass.
export const ranked = [...nodes].sort((a, b) => (b.effect ?? -Infinity) - (a.effect ?? -Infinity) || a.index - b.index);
export const maxEffect = Math.max(1e-9, ...nodes.map((node) => node.effect ?? 0));
export const maxWeight = Math.max(1e-9, ...doc.edges.map((edge) => Math.abs(edge.weight)));
export const maxTokenWeight = Math.max(1e-9, ...[...doc.embed, ...doc.unembed].map((edge) => Math.abs(edge.weight)));

const byName = new Map(nodes.map((node) => [node.name, node.index]));
const listeners = [];
export const state = { selected: null, mode: "circuit" };

// Calls `listener` after every change, and is told what changed: "selected" or "mode".
export function subscribe(listener) {
  listeners.push(listener);
}

function announce(what) {
  for (const listener of listeners) listener(what);
}

export function findNode(name) {
  return byName.get(name.trim()) ?? null;
}

// Selects a node by index, or none.
export function select(index) {
  if (index === state.selected) return;
  state.selected = index;
  const hash = index === null ? "" : `#node=${encodeURIComponent(nodes[index].name)}`;
  try {
    history.replaceState(null, "", hash || location.pathname + location.search);
  } catch {
    if (hash) location.hash = hash; // some browsers guard history on local files
  }
  announce("selected");
}

export function setMode(mode) {
  state.mode = mode;
  announce("mode");
}

// Reads the selection out of the URL hash; unknown names select nothing.
export function selectFromHash() {
  const match = /^#node=(.+)$/.exec(location.hash);
  if (!match) return select(null);
  try {
    return select(findNode(decodeURIComponent(match[1])));
  } catch {
    return select(null);
  }
}
