// Attention patterns of one head on the first examples: rows are queries, columns keys, the sink set apart at the right.

import { h, hideTip, num, s, showTip, visible } from "./dom.js";
import { doc, state } from "./state.js";

export function headView(layer, head) {
  return doc.heads.find((view) => view.layer === layer && view.head === head) ?? null;
}

function grid(rows, example) {
  const count = example.tokens.length;
  const size = count > 48 ? 4 : count > 26 ? 6 : count > 16 ? 8 : 11;
  const gap = doc.sink ? 4 : 0;
  const width = rows[0].length * size + gap;
  const picture = s("svg", {
    class: "attention",
    viewBox: `0 0 ${width} ${count * size}`,
    width,
    height: count * size,
  });
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", `attention pattern on a prompt of class ${"AB"[example.label]}`);
  rows.forEach((row, query) => {
    row.forEach((value, key) => {
      const sink = key >= count;
      if (!sink && key > query) return;
      const x = key * size + (sink ? gap : 0);
      const square = s("rect", {
        x,
        y: query * size,
        width: size - 0.5,
        height: size - 0.5,
        "--a": `${(100 * (value ?? 0)).toFixed(1)}%`,
      });
      square.dataset.lines = JSON.stringify([query, key, value]);
      picture.append(square);
    });
  });
  picture.addEventListener("pointermove", (event) => {
    if (!event.target.dataset.lines) return hideTip();
    const [query, key, value] = JSON.parse(event.target.dataset.lines);
    const seen = key >= count ? "sink" : `${visible(example.tokens[key])} (${key})`;
    return showTip(event, `from ${visible(example.tokens[query])} (${query})`, `to ${seen}`, num(value));
  });
  picture.addEventListener("pointerleave", hideTip);
  return picture;
}

// Patterns of the head that owns this q, k or v node; null for other nodes.
export function attentionOf(node) {
  const view = node.head === null ? null : headView(node.layer, node.head);
  if (!view) return null;
  const patterns = state.mode === "circuit" ? view.circuit : view.model;
  const columns = [0, 1].map((label) =>
    h(
      "section",
      { class: "heat-class" },
      h("h4", null, `class ${"AB"[label]}`),
      patterns.map((rows, i) =>
        doc.examples[i].label === label ? h("div", { class: "scroll-x" }, grid(rows, doc.examples[i])) : null,
      ),
    ),
  );
  const note = `Row: the token that looks. Column: the token looked at${doc.sink ? "; last column: the sink" : ""}.`;
  return h("div", null, h("p", { class: "note" }, note), h("div", { class: "heat-columns" }, columns));
}
