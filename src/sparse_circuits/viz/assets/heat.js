// Token heat maps: a node's activation at every token of the examples, class A and class B side by side. One scale per
// node, symmetric about zero and shared by all examples and by circuit and full model, so colours compare.

import { h, hideTip, num, showTip, signed, visible } from "./dom.js";
import { doc, state } from "./state.js";

const CLASSES = ["A", "B"];

export function heatScale(node) {
  let top = 0;
  for (const rows of [node.heat_circuit, node.heat_model]) {
    for (const row of rows) for (const value of row) top = Math.max(top, Math.abs(value ?? 0));
  }
  return top;
}

// Colour strength in percent; the square root keeps small activations visible.
export function strength(value, top) {
  return top > 0 ? `${(92 * Math.sqrt(Math.min(1, Math.abs(value) / top))).toFixed(1)}%` : "0%";
}

function cell(token, value, top) {
  const sign = value > 0 ? "pos" : value < 0 ? "neg" : "zero";
  const attributes = { class: `cell ${sign}`, "--a": strength(value ?? 0, top), "data-value": value ?? "" };
  return h("span", attributes, visible(token));
}

function exampleRow(example, values, top) {
  const peak = values.reduce((best, value, i) => (Math.abs(value ?? 0) > Math.abs(values[best] ?? 0) ? i : best), 0);
  const label = `prompt of class ${CLASSES[example.label]}; strongest ${num(values[peak])} at token ${visible(example.tokens[peak] ?? "")}`;
  const line = h("div", { class: "prompt", role: "img", "aria-label": label });
  example.tokens.forEach((token, i) => {
    line.append(cell(token, values[i], top));
    if (token.includes("\n") && i + 1 < example.tokens.length) line.append(h("br"));
  });
  const chance = state.mode === "circuit" ? example.p_circuit : example.p_model;
  const wrong = chance !== null && chance < 0.5;
  const answer = h("span", { class: wrong ? "answer wrong" : "answer" }, `→ ${visible(example.right)}`);
  answer.append(h("span", { class: "chance" }, chance === null ? "" : `${Math.round(100 * chance)}%`));
  return h("div", { class: "example" }, line, answer);
}

function scaleBar(top) {
  if (top === 0) return h("p", { class: "note" }, "Never active on these examples.");
  return h(
    "div",
    { class: "scale", "aria-hidden": "true" },
    h("span", null, num(-top)),
    h("span", { class: "ramp" }),
    h("span", null, `+${num(top)}`),
  );
}

// One tooltip listener for the whole map instead of one per cell.
function cellTip(event) {
  const target = event.target.closest(".cell");
  if (!target) return hideTip();
  const value = target.dataset.value;
  return showTip(
    { target, clientX: event.clientX, clientY: event.clientY },
    target.textContent,
    value === "" ? "–" : signed(Number(value), 5),
  );
}

// The heat map of one node in the current mode.
export function heatMap(node) {
  const top = heatScale(node);
  const rows = state.mode === "circuit" ? node.heat_circuit : node.heat_model;
  const columns = CLASSES.map((name, label) =>
    h(
      "section",
      { class: "heat-class", "aria-label": `class ${name}` },
      h("h4", null, `class ${name}`),
      doc.examples.map((example, i) => (example.label === label ? exampleRow(example, rows[i], top) : null)),
    ),
  );
  const map = h("div", { class: "heat-columns", onpointermove: cellTip, onpointerleave: hideTip }, columns);
  return h("div", { class: "heat" }, scaleBar(top), map);
}
