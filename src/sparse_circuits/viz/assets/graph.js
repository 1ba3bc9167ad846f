// The node-link picture of the whole circuit, and its controls. Edges are coloured by the sign of the weight and as wide
// as the weight is large; nodes are filled by how much the loss rises without them. One node is in the tab order at a
// time; arrow keys walk the columns, Enter selects, Escape lets go.

import { clip, h, hideTip, num, s, showTip, signed, tips, visible } from "./dom.js";
import { BOX, layout } from "./layout.js";
import { doc, maxEffect, maxTokenWeight, maxWeight, nodes, select, state, subscribe } from "./state.js";

const TOKEN_LIMIT = 28;
const view = {
  picture: null,
  plan: null,
  boxes: new Map(),
  paths: [],
  hovered: null,
  allTokens: false,
  cut: 0,
  fit: true,
};

function lineWidth(line) {
  if (line.kind === "link") return 1;
  const [top, thick] = line.kind === "edge" ? [maxWeight, 4.2] : [maxTokenWeight, 2.4];
  return 0.7 + (thick - 0.7) * Math.sqrt(Math.abs(line.weight) / top);
}

function curveBetween(from, to, height) {
  const [x1, y1, x2, y2] = [from.x + BOX.width, from.y + height / 2, to.x, to.y + height / 2];
  const bend = Math.min(90, Math.max(18, (x2 - x1) / 2));
  return `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
}

function lineName(line) {
  const name = (key, side) => (key[0] === "n" ? nodes[Number(key.slice(1))].name : `${side} ${visible(line.text)}`);
  return `${name(line.from, "token")} → ${name(line.to, "logit of")}`;
}

function drawLine(line) {
  const sign = line.weight === undefined ? "" : line.weight >= 0 ? " pos" : " neg";
  const path = curveBetween(view.plan.places.get(line.from), view.plan.places.get(line.to), view.plan.box.height);
  const shown = s("path", { d: path, class: `line ${line.kind}${sign}`, "stroke-width": lineWidth(line).toFixed(2) });
  const link = line.shared ? "both read this residual channel (not counted)" : "same residual channel (not counted)";
  const detail = line.kind === "link" ? link : `weight ${signed(line.weight, 4)}`;
  const hit = s("path", { d: path, class: `hit for-${line.kind}`, ...tips(lineName(line), detail) });
  hit.addEventListener("pointerenter", () => shown.classList.add("hot"));
  hit.addEventListener("pointerleave", () => shown.classList.remove("hot"));
  const group = s("g", { class: `connection ${line.kind === "link" ? "resid" : line.kind}-group` }, shown, hit);
  view.paths.push({ line, group });
  return group;
}

function nodeLabel(node) {
  const marks = [node.constant ? "constant" : null, node.stranded ? "stranded" : null].filter(Boolean);
  const effect = node.effect === null ? "effect not measured" : `effect ${signed(node.effect)} nats`;
  return [node.name, node.head === null ? null : `head ${node.head}`, effect, ...marks].filter(Boolean);
}

function drawNode(item) {
  const { node } = item;
  const share = Math.sqrt(Math.max(0, node.effect ?? 0) / maxEffect);
  const lines = nodeLabel(node);
  const attributes = {
    class: "node",
    role: "button",
    tabindex: "-1",
    "aria-label": lines.join(", "),
    "aria-pressed": "false",
  };
  const box = s("g", {
    ...attributes,
    transform: `translate(${item.x.toFixed(1)} ${item.y.toFixed(1)})`,
    "--a": `${(78 * share).toFixed(1)}%`,
  });
  if (node.constant) box.classList.add("constant");
  if (node.stranded) box.classList.add("stranded");
  const height = view.plan.box.height;
  box.append(s("rect", { width: BOX.width, height, rx: 6 }));
  box.append(s("text", { x: BOX.width / 2, y: height / 2 }, item.label));
  box.dataset.node = node.name;
  box.addEventListener("click", () => select(state.selected === node.index ? null : node.index));
  box.addEventListener("pointerenter", (event) => hover(item.key, event, lines));
  box.addEventListener("pointerleave", () => hover(null));
  box.addEventListener("focus", (event) => box.matches(":focus-visible") && hover(item.key, event, lines));
  box.addEventListener("blur", () => hover(null));
  return box;
}

function drawToken(item, side) {
  const count = item.token.edges.length;
  const lines = [
    visible(item.label),
    `${count} ${side} ${count === 1 ? "entry" : "entries"}, largest |weight| ${num(item.token.weight)}`,
  ];
  const box = s("g", { class: "token-box", transform: `translate(${item.x.toFixed(1)} ${item.y.toFixed(1)})` });
  const height = view.plan.box.height;
  box.append(s("rect", { width: BOX.width, height, rx: height / 2 }));
  box.append(s("text", { x: BOX.width / 2, y: height / 2 }, clip(visible(item.label), 6)));
  box.addEventListener("pointerenter", (event) => hover(item.key, event, lines));
  box.addEventListener("pointerleave", () => hover(null));
  return box;
}

function drawColumn(column) {
  const group = s("g", { class: column.side ? "column token-group" : "column" });
  const middle = column.x + BOX.width / 2;
  column.title.forEach((text, i) =>
    group.append(s("text", { class: i ? "site" : "site block", x: middle, y: 34 + 13 * i }, text)),
  );
  for (const frame of column.frames) {
    const [x, y] = [column.x - BOX.framePad, frame.y + BOX.top - 2];
    group.append(
      s("rect", {
        class: "head",
        x,
        y,
        width: BOX.width + 2 * BOX.framePad,
        height: frame.bottom - frame.y + 2,
        rx: 8,
      }),
    );
    group.append(s("text", { class: "head-title", x: middle, y: y + 10 }, `head ${frame.head}`));
  }
  for (const item of column.items) {
    const box = item.node ? drawNode(item) : drawToken(item, column.side);
    view.boxes.set(item.key, box);
    group.append(box);
  }
  return group;
}

// Bands behind the columns of each layer, with the layer's name on top.
function drawBands(plan) {
  const bands = s("g", { class: "bands" });
  for (let layer = 0; layer < doc.header.n_layer; layer += 1) {
    const columns = plan.columns.filter((column) => column.layer === layer);
    if (!columns.length) continue;
    const [x, end] = [columns[0].x - 10, columns.at(-1).x + BOX.width + 10];
    bands.append(s("rect", { class: "band", x, y: 2, width: end - x, height: plan.height - 4, rx: 10 }));
    bands.append(s("text", { class: "band-title", x: (x + end) / 2, y: 17 }, `layer ${layer}`));
  }
  return bands;
}

function draw() {
  const room = view.holder.clientWidth;
  const limit = view.allTokens ? Infinity : TOKEN_LIMIT;
  const fitted = (plan) => (view.fit ? Math.min(1, Math.max(0.64, room / plan.width)) : 1);
  const tall = Math.max(view.holder.clientHeight - 4, 300);
  view.plan = layout(room, limit, tall);
  view.plan = layout(room, limit, tall / fitted(view.plan));
  const { plan } = view;
  view.boxes.clear();
  view.paths = [];
  hideTip();
  const scale = fitted(plan);
  const size = { width: Math.floor(plan.width * scale), height: Math.floor(plan.height * scale) };
  const label = `Circuit with ${doc.nodes.length} nodes and ${doc.edges.length} edges, flowing from tokens at the left to logits at the right`;
  view.picture = s("svg", {
    class: "circuit",
    viewBox: `0 0 ${plan.width} ${plan.height}`,
    ...size,
    role: "group",
    "aria-label": label,
  });
  view.picture.style.setProperty("--label-size", `${Math.min(13.5, 11.5 / scale, plan.box.height * 0.62)}px`);
  view.picture.style.setProperty("--site-size", `${Math.min(11.6, 10.5 / scale)}px`);
  view.picture.append(drawBands(plan));
  view.picture.append(s("g", { class: "lines", "aria-hidden": "true" }, plan.lines.map(drawLine)));
  view.picture.append(...plan.columns.map(drawColumn));
  view.picture.addEventListener("keydown", onKey);
  view.holder.replaceChildren(view.picture);
  applyCut();
  mark();
}

function touches(line, key) {
  return line.from === key || line.to === key;
}

// Brings out the hovered (else the selected) item with its connections; everything else steps back.
function mark() {
  const chosen = state.selected === null ? null : `n${state.selected}`;
  const focus = view.hovered ?? chosen;
  const near = new Set(focus === null ? [] : [focus]);
  for (const { line, group } of view.paths) {
    const on = focus !== null && touches(line, focus);
    group.classList.toggle("on", on);
    if (on) near.add(line.from).add(line.to);
  }
  view.picture.classList.toggle("focused", focus !== null);
  for (const [key, box] of view.boxes) {
    box.classList.toggle("on", near.has(key));
    box.classList.toggle("selected", key === chosen);
    if (box.classList.contains("node")) box.setAttribute("aria-pressed", String(key === chosen));
  }
  const entry = view.boxes.get(chosen) ?? view.picture.querySelector(".node");
  for (const box of view.picture.querySelectorAll('.node[tabindex="0"]')) box.setAttribute("tabindex", "-1");
  entry?.setAttribute("tabindex", "0");
}

// Scrolls the picture sideways, never the page, to where the selected node is.
function reveal() {
  if (state.selected === null) return;
  const [box, frame] = [
    view.boxes.get(`n${state.selected}`).getBoundingClientRect(),
    view.holder.getBoundingClientRect(),
  ];
  if (box.left < frame.left || box.right > frame.right)
    view.holder.scrollLeft += box.left - frame.left - frame.width / 2;
}

function hover(key, event, lines) {
  view.hovered = key;
  if (key === null) hideTip();
  else showTip(event, ...lines);
  mark();
}

function onKey(event) {
  const box = event.target.closest(".node");
  if (!box) return;
  if (event.key === "Enter" || event.key === " ") box.dispatchEvent(new MouseEvent("click"));
  else if (event.key === "Escape") select(null);
  else if (event.key.startsWith("Arrow")) walk(box, event.key);
  else return;
  event.preventDefault();
}

// Up and down within a column, left and right to the nearest height of the next column with nodes.
function walk(box, key) {
  const columns = view.plan.columns
    .map((column) => column.items.filter((item) => item.node))
    .filter((items) => items.length);
  const c = columns.findIndex((items) => items.some((item) => view.boxes.get(item.key) === box));
  const r = columns[c].findIndex((item) => view.boxes.get(item.key) === box);
  const sideways = columns[c + (key === "ArrowRight" ? 1 : -1)] ?? columns[c];
  const closest = [...sideways].sort((a, b) => Math.abs(a.y - columns[c][r].y) - Math.abs(b.y - columns[c][r].y))[0];
  const target = key === "ArrowDown" ? columns[c][r + 1] : key === "ArrowUp" ? columns[c][r - 1] : closest;
  if (target) view.boxes.get(target.key).focus();
}

function applyCut() {
  const top = (view.cut / 100) * maxWeight;
  let shown = 0;
  for (const { line, group } of view.paths) {
    if (line.kind !== "edge") continue;
    group.classList.toggle("cut", Math.abs(line.weight) < top);
    shown += Math.abs(line.weight) >= top;
  }
  view.cutText.textContent = view.cut === 0 ? "all" : `≥ ${num(top, 2)} (${shown})`;
}

function toggle(text, name, checked, onchange) {
  const box = h("input", { type: "checkbox", checked, onchange: (event) => onchange(event.target.checked) });
  return h("label", { class: `toggle ${name}` }, box, h("span", { class: "swatch", "aria-hidden": "true" }), text);
}

function controls(card) {
  const hide = (kind) => (on) => card.classList.toggle(`hide-${kind}`, !on);
  const many =
    Math.max(...[doc.embed, doc.unembed].map((edges) => new Set(edges.map((edge) => edge.token)).size)) > TOKEN_LIMIT;
  view.cutText = h("output", null, "all");
  const slider = h("input", {
    type: "range",
    min: 0,
    max: 60,
    step: 1,
    value: 0,
    "aria-label": "hide edges with a smaller absolute weight",
  });
  slider.addEventListener("input", () => {
    view.cut = Number(slider.value);
    applyCut();
  });
  const redraw = (key) => (on) => {
    view[key] = on;
    draw();
  };
  return h(
    "div",
    { class: "controls" },
    toggle("token edges", "key-token", true, hide("token")),
    toggle("residual links", "key-link", true, hide("link")),
    many ? toggle("all tokens", "plain", false, redraw("allTokens")) : null,
    toggle("fit width", "plain", true, redraw("fit")),
    h("label", { class: "slider" }, "edges", slider, view.cutText),
  );
}

function legend() {
  const key = (name, text) => h("li", null, h("span", { class: `swatch ${name}`, "aria-hidden": "true" }), text);
  return h(
    "ul",
    { class: "legend", "aria-label": "legend" },
    key("key-pos", "positive weight"),
    key("key-neg", "negative weight (wider = larger)"),
    key("key-token", "token edge: embedding, unembedding"),
    key("key-link", "same residual channel (structure, not counted)"),
    key("key-effect", "darker box = larger loss rise without it"),
    key("key-constant", "dotted border: no weights lead to it from a token"),
    key("key-head", "frame: one attention head"),
  );
}

// Fills the card of the picture.
export function showGraph(card) {
  view.holder = h("div", { class: "graph-scroll" });
  card.append(controls(card), view.holder, legend());
  draw();
  subscribe((what) => {
    if (what !== "selected") return;
    mark();
    reveal();
  });
  let width = view.holder.clientWidth;
  new ResizeObserver(() => {
    if (Math.abs(view.holder.clientWidth - width) < 8) return;
    width = view.holder.clientWidth;
    draw();
  }).observe(view.holder);
}
