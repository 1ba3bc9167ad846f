// Where everything stands in the picture: columns from left to right in the order of the forward pass.
//   tokens | act_in | q k v by head | resid_delta | act_in | post_act | resid_delta | ... | final_resid | logits
// Stages without kept nodes take no column. Inside a column nodes are ordered by the mean height of what they are
// connected to (a few sweeps), which untangles most edges; q, k and v of one head stay together in a frame.

import { doc, nodes } from "./state.js";

const STAGES = [
  { kinds: ["attn.act_in"], title: ["attn", "act_in"] },
  { kinds: ["attn.q", "attn.k", "attn.v"], title: ["attn", "q·k·v"] },
  { kinds: ["attn.resid_delta"], title: ["attn", "resid_delta"] },
  { kinds: ["mlp.act_in"], title: ["mlp", "act_in"] },
  { kinds: ["mlp.post_act"], title: ["mlp", "post_act"] },
  { kinds: ["mlp.resid_delta"], title: ["mlp", "resid_delta"] },
];
export const BOX = { width: 54, top: 58, frameTop: 16, framePad: 5 };

// Unique tokens of some token edges, heaviest first, cut to `limit`.
export function tokensOf(edges, limit) {
  const found = new Map();
  for (const edge of edges) {
    const item = found.get(edge.token) ?? { token: edge.token, text: edge.text, weight: 0, edges: [] };
    item.weight = Math.max(item.weight, Math.abs(edge.weight));
    item.edges.push(edge);
    found.set(edge.token, item);
  }
  return [...found.values()].sort((a, b) => b.weight - a.weight).slice(0, limit);
}

function nodeItem(node) {
  const short = { "attn.q": "q ", "attn.k": "k ", "attn.v": "v " }[node.kind] ?? "";
  return { key: `n${node.index}`, node, label: `${short}${node.channel}`, frame: node.head };
}

function tokenItem(side) {
  return (item) => ({ key: `${side}${item.token}`, token: item, label: item.text, frame: null });
}

// Columns with their items, not yet placed.
export function makeColumns(limit) {
  const columns = [];
  const embed = tokensOf(doc.embed, limit).map(tokenItem("e"));
  if (embed.length) columns.push({ title: ["tokens", "embedding"], layer: null, items: embed, side: "embed" });
  for (let layer = 0; layer < doc.header.n_layer; layer += 1) {
    for (const stage of STAGES) {
      const items = nodes.filter((node) => node.layer === layer && stage.kinds.includes(node.kind)).map(nodeItem);
      if (items.length) columns.push({ title: stage.title, layer, items });
    }
  }
  const last = nodes.filter((node) => node.layer === null).map(nodeItem);
  if (last.length) columns.push({ title: ["final", "resid"], layer: null, items: last });
  const unembed = tokensOf(doc.unembed, limit).map(tokenItem("u"));
  if (unembed.length) columns.push({ title: ["logits", "unembedding"], layer: null, items: unembed, side: "unembed" });
  return columns;
}

// Everything that is drawn as a line: {kind, from, to, weight} with the keys of its ends.
export function makeLines() {
  return [
    ...doc.links.map((link) => ({ kind: "link", from: `n${link.source}`, to: `n${link.target}` })),
    ...doc.shared.map((link) => ({ kind: "link", shared: true, from: `n${link.source}`, to: `n${link.target}` })),
    ...doc.embed.map((edge) => ({
      kind: "token",
      from: `e${edge.token}`,
      to: `n${edge.node}`,
      weight: edge.weight,
      text: edge.text,
    })),
    ...doc.unembed.map((edge) => ({
      kind: "token",
      from: `n${edge.node}`,
      to: `u${edge.token}`,
      weight: edge.weight,
      text: edge.text,
    })),
    ...doc.edges.map((edge) => ({ kind: "edge", from: `n${edge.source}`, to: `n${edge.target}`, weight: edge.weight })),
  ];
}

function neighbours(lines) {
  const near = new Map();
  const add = (a, b) => near.set(a, [...(near.get(a) ?? []), b]);
  for (const line of lines) {
    add(line.from, line.to);
    add(line.to, line.from);
  }
  return near;
}

// Gives every item of a column its height, top to bottom, spread out where there is room; returns the column's height.
function stack(column, box, room) {
  const frames = new Set(column.items.map((item) => item.frame)).size * (BOX.frameTop + 8);
  const spare = (room - frames) / Math.max(column.items.length, 1) - box.height;
  const gap =
    column.items[0]?.frame === null ? Math.min(22, Math.max(box.gap, spare)) : Math.min(12, Math.max(box.gap, spare));
  let y = 0;
  let frame = null;
  column.frames = [];
  for (const item of column.items) {
    if (item.frame !== null && item.frame !== frame) {
      y += frame === null ? BOX.frameTop : BOX.frameTop + 8;
      column.frames.push({ head: item.frame, y: y - BOX.frameTop, bottom: y });
      frame = item.frame;
    }
    item.y = y;
    y += box.height + gap;
    if (item.frame !== null) column.frames.at(-1).bottom = y - gap + BOX.framePad;
  }
  column.height = y - gap + (frame === null ? 0 : BOX.framePad);
  return column.height;
}

function center(column, height) {
  const shift = (height - column.height) / 2;
  for (const item of column.items) item.y += shift;
  for (const frame of column.frames) {
    frame.y += shift;
    frame.bottom += shift;
  }
}

function reorder(column, places, near) {
  for (const item of column.items) {
    const heights = (near.get(item.key) ?? []).map((key) => places.get(key)?.y).filter((y) => y !== undefined);
    item.rank = heights.length ? heights.reduce((a, b) => a + b, 0) / heights.length : item.y;
  }
  const frames = new Map();
  for (const item of column.items) frames.set(item.frame, [...(frames.get(item.frame) ?? []), item.rank]);
  const mean = (frame) => frames.get(frame).reduce((a, b) => a + b, 0) / frames.get(frame).length;
  const part = (item) => (item.frame === null ? 0 : "qkv".indexOf(item.node.kind.at(-1)));
  column.items.sort((a, b) => mean(a.frame) - mean(b.frame) || part(a) - part(b) || a.rank - b.rank);
}

// Places all columns. `room` is the width there is; columns spread to fill it but never come closer than readable.
export function layout(room, limit, tall) {
  const columns = makeColumns(limit);
  const lines = makeLines();
  const longest = Math.max(...columns.map((column) => column.items.length), 1);
  const box = longest > 28 ? { height: 18, gap: 4 } : { height: 26, gap: 8 };
  const near = neighbours(lines);
  const places = new Map(columns.flatMap((column) => column.items.map((item) => [item.key, item])));
  const space = Math.max(240, tall - BOX.top - 18);
  let height = Math.max(...columns.map((column) => stack(column, box, space)), space);
  for (let sweep = 0; sweep < 8; sweep += 1) {
    for (const column of columns) center(column, height);
    for (const column of sweep % 2 ? [...columns].reverse() : columns) {
      reorder(column, places, near);
      stack(column, box, space);
      center(column, height);
    }
    height = Math.max(...columns.map((column) => stack(column, box, space)), space);
  }
  const pad = 16;
  const widest = Math.max(columns.length - 1, 1);
  const pitch = Math.min(150, Math.max(78, (room - 2 * pad - BOX.width) / widest));
  columns.forEach((column, i) => {
    center(column, height);
    column.x = pad + i * pitch;
    for (const item of column.items) {
      item.x = column.x;
      item.y += BOX.top;
    }
  });
  const width = Math.max(2 * pad + BOX.width + (columns.length - 1) * pitch, 240);
  return {
    columns,
    lines: lines.filter((line) => places.has(line.from) && places.has(line.to)),
    places,
    box,
    width,
    height: height + BOX.top + 18,
  };
}
