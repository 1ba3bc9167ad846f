// The side panel: everything about the selected node, or a word on how to use the picture while none is selected.

import { h, num, signed, visible } from "./dom.js";
import { attentionOf } from "./attention.js";
import { heatMap } from "./heat.js";
import { doc, nodes, ranked, select, setMode, state, subscribe } from "./state.js";

const LIST_LIMIT = 12;

// Radio buttons that switch every heat map between the circuit and the full model.
export function modeSwitch(name) {
  const choice = (mode, text) => {
    const input = h("input", {
      type: "radio",
      name,
      value: mode,
      checked: state.mode === mode,
      onchange: () => setMode(mode),
    });
    return h("label", null, input, h("span", null, text));
  };
  return h(
    "div",
    { class: "switch", role: "radiogroup", "aria-label": "activations of" },
    choice("circuit", "circuit"),
    choice("model", "full model"),
  );
}

export function nodeLink(index) {
  const node = nodes[index];
  return h("button", { type: "button", class: "node-link", onclick: () => select(index) }, node.name);
}

function connection(item, side) {
  const sign = item.weight > 0 ? "pos" : "neg";
  const structure = { link: "residual", shared: "reads the same channel" }[item.kind];
  const weight = structure
    ? h("span", { class: "note" }, structure)
    : h("span", { class: `weight ${sign}` }, signed(item.weight));
  const end =
    item.kind === "token"
      ? h("code", { class: "token-text" }, `${side === "in" ? "token" : "logit"} ${visible(item.text)}`)
      : nodeLink(item.node);
  return h("li", null, end, weight);
}

function connections(title, items, side) {
  const list = h(
    "ul",
    { class: "connections" },
    items.slice(0, LIST_LIMIT).map((item) => connection(item, side)),
  );
  const section = h(
    "section",
    null,
    h("h3", null, `${title} (${items.length})`),
    items.length ? list : h("p", { class: "note" }, "none"),
  );
  if (items.length > LIST_LIMIT) {
    const more = h("button", { type: "button", class: "quiet" }, `show all ${items.length}`);
    more.addEventListener("click", () => {
      list.append(...items.slice(LIST_LIMIT).map((item) => connection(item, side)));
      more.remove();
    });
    section.append(more);
  }
  return section;
}

function facts(node) {
  const row = (name, value) => h("div", null, h("dt", null, name), h("dd", null, value));
  return h(
    "dl",
    { class: "facts" },
    row("effect, nats", signed(node.effect)),
    row("bias", node.bias === null ? "–" : num(node.bias)),
    row("ablated to", num(node.ablation_value)),
    node.head === null ? null : row("head", String(node.head)),
  );
}

function pairing(node) {
  if (!["attn.q", "attn.k"].includes(node.kind)) return null;
  const other = node.kind === "attn.q" ? "attn.k" : "attn.q";
  const partner = nodes.find(
    (item) => item.kind === other && item.layer === node.layer && item.channel === node.channel,
  );
  return h(
    "p",
    { class: "note" },
    partner
      ? ["Multiplies with ", nodeLink(partner.index), " in the attention score."]
      : `Its partner ${other}[${node.channel}] is ablated to a constant.`,
  );
}

function details(node) {
  const badges = [
    node.constant ? "constant: no weights lead to it from a token" : null,
    node.stranded ? "stranded: no path to the logits, yet needed" : null,
  ];
  const close = h(
    "button",
    { type: "button", class: "close", "aria-label": "close the panel", onclick: () => select(null) },
    "×",
  );
  const attention = attentionOf(node);
  return [
    h("header", { class: "panel-head" }, h("h2", null, node.name), close),
    h(
      "div",
      null,
      badges.filter(Boolean).map((text) => h("span", { class: "badge" }, text)),
    ),
    facts(node),
    pairing(node),
    h("div", { class: "row" }, h("h3", null, "On task examples"), modeSwitch("panel-mode")),
    heatMap(node),
    connections("Reads from", node.ins, "in"),
    connections("Writes to", node.outs, "out"),
    attention ? h("section", null, h("h3", null, `Attention of head ${node.head}`), attention) : null,
  ].filter(Boolean);
}

function hint() {
  const top = ranked
    .slice(0, 5)
    .map((node) =>
      h(
        "li",
        null,
        nodeLink(node.index),
        h("span", { class: "weight" }, node.effect === null ? "" : signed(node.effect)),
      ),
    );
  return [
    h("h2", null, "Pick a node"),
    h(
      "p",
      { class: "note" },
      "Click a box, or tab into the picture and use the arrow keys, to see what feeds a node, what it feeds, and where it fires.",
    ),
    doc.nodes.length ? h("h3", null, "Most important") : h("p", null, "This circuit has no nodes."),
    h("ul", { class: "connections" }, top),
  ];
}

export function showPanel(panel) {
  const render = (what) => {
    const top = panel.scrollTop;
    panel.replaceChildren(...(state.selected === null ? hint() : details(nodes[state.selected])));
    panel.scrollTop = what === "mode" ? top : 0;
  };
  subscribe(render);
  render("selected");
}
