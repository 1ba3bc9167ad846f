// Tables and lists: heat maps of all nodes, counts per layer and site, provenance and the glossary.

import { h, num, plural, signed, whole } from "./dom.js";
import { heatMap } from "./heat.js";
import { modeSwitch } from "./panel.js";
import { doc, ranked, select, state, subscribe } from "./state.js";

const GLOSSARY = [
  [
    "node",
    "One channel of one activation site, e.g. 2.mlp.post_act[37]. Nodes outside the circuit are ablated: their activation is replaced by a fixed value.",
  ],
  [
    "edge",
    "A nonzero weight between two kept nodes of one block. Embedding, unembedding and bias entries are counted apart, beside it.",
  ],
  [
    "loss",
    "Mean cross-entropy over the task's two completions, in nats, over both prompts of a pair; guessing scores 0.693. With loss kind full_vocab: over the whole vocabulary.",
  ],
  [
    "calibrated loss",
    "The same after scaling (and, where completions are fixed, shifting) the difference of the two logits, fitted on training pairs. The target applies to the uncalibrated loss unless stated.",
  ],
  ["empty circuit", "Test loss with every node ablated: what the ablation values alone achieve."],
  ["effect", "Rise of the loss, on the prompts that chose the nodes, when this node alone is ablated from the circuit."],
  ["ablated to", "The value a node is set to when it is ablated; for mean_pretrain its mean over training text."],
  ["constant", "A kept node that no token can reach through kept nodes; it acts as a bias, unless AbsTopK lets it through on some prompts only."],
  ["stranded", "A kept node without a path to the logits whose removal would miss the target."],
  [
    "residual link",
    "A node that adds to a residual channel and a later node that reads the same channel. Structure, not counted as an edge.",
  ],
  [
    "token edge",
    "A nonzero entry of the embedding (a prompt token writes a channel) or of the unembedding (a channel writes a completion's logit).",
  ],
  ["accuracy", "Share of test prompts on which the right completion scores higher than the other."],
];

// Selects the node and brings the picture into view.
function jump(node) {
  const show = () => {
    select(node.index);
    document.getElementById("circuit-title").scrollIntoView();
  };
  return h("button", { type: "button", class: "node-link", onclick: show }, "show in the picture");
}

function nodeHeat(node) {
  const body = h("div", { class: "heat-body" });
  const degree = `${plural(node.ins.length, "input")}, ${plural(node.outs.length, "output")}`;
  const summary = h(
    "summary",
    null,
    h("code", null, node.name),
    h("span", { class: "note" }, degree),
    h("span", { class: "weight" }, signed(node.effect)),
  );
  const item = h("details", { class: "node-heat" }, summary, body);
  item.fill = () => item.open && body.replaceChildren(heatMap(node), jump(node));
  item.addEventListener("toggle", item.fill);
  item.dataset.node = node.name;
  return item;
}

export function showHeatList(card) {
  const items = ranked.map(nodeHeat);
  const filter = h("input", {
    type: "search",
    placeholder: "filter by name, e.g. 0.attn",
    "aria-label": "filter nodes by name",
  });
  filter.addEventListener("input", () =>
    items.forEach((item) => (item.hidden = !item.dataset.node.includes(filter.value.trim()))),
  );
  const all = h("button", { type: "button", class: "quiet" }, "open all");
  all.addEventListener("click", () => {
    const open = all.textContent === "open all";
    items.filter((item) => !item.hidden).forEach((item) => (item.open = open));
    all.textContent = open ? "close all" : "open all";
  });
  card.append(
    h("div", { class: "controls" }, filter, all, modeSwitch("list-mode")),
    h("div", { class: "heat-list" }, items),
  );
  subscribe((what) => {
    if (what !== "mode") return;
    for (const input of document.querySelectorAll(".switch input")) input.checked = input.value === state.mode;
    items.forEach((item) => item.fill());
  });
}

function table(caption, columns, rows) {
  const head = h(
    "thead",
    null,
    h(
      "tr",
      null,
      columns.map((name) => h("th", { scope: "col" }, name)),
    ),
  );
  const line = (row) =>
    h(
      "tr",
      null,
      row.map((value, i) =>
        i
          ? h("td", { class: value ? null : "zero" }, value === 0 ? "·" : whole(value))
          : h("th", { scope: "row" }, value),
      ),
    );
  return h(
    "div",
    { class: "scroll-x" },
    h("table", null, h("caption", null, caption), head, h("tbody", null, rows.map(line))),
  );
}

function perLayer(kinds, count) {
  const layers = [...Array(doc.header.n_layer).keys()];
  const rows = layers.map((layer) => [`layer ${layer}`, ...kinds.map((kind) => count(layer, kind))]);
  const withTotals = rows.map((row) => [...row, row.slice(1).reduce((a, b) => a + b, 0)]);
  const totals = kinds.map((_, i) => rows.reduce((sum, row) => sum + row[i + 1], 0));
  return { rows: withTotals, totals };
}

export function showCounts(card) {
  const kinds = [...new Set(doc.sites.filter((site) => site.layer !== null).map((site) => site.kind))];
  const nodesAt = (layer, kind) => doc.sites.find((site) => site.layer === layer && site.kind === kind)?.nodes ?? 0;
  const byNode = perLayer(kinds, nodesAt);
  const last = doc.sites
    .filter((site) => site.layer === null)
    .map((site) => [site.site, ...kinds.map(() => 0), site.nodes]);
  const all = [...byNode.rows, ...last, ["total", ...byNode.totals, doc.header.nodes]];
  const split = (site) => [Number(site.slice(0, site.indexOf("."))), site.slice(site.indexOf(".") + 1)];
  const arrows = [
    ["attn.act_in", "attn.q"],
    ["attn.act_in", "attn.k"],
    ["attn.act_in", "attn.v"],
    ["attn.v", "attn.resid_delta"],
    ["mlp.act_in", "mlp.post_act"],
    ["mlp.post_act", "mlp.resid_delta"],
  ];
  const edgesAt = (layer, name) =>
    doc.matrices
      .filter((m) => split(m.source)[0] === layer && `${split(m.source)[1]} → ${split(m.target)[1]}` === name)
      .reduce((sum, m) => sum + m.edges, 0);
  const names = arrows.map((pair) => pair.join(" → "));
  const byEdge = perLayer(names, edgesAt);
  card.append(
    table("Nodes", ["", ...kinds, "total"], all),
    table("Edges", ["", ...names, "total"], [...byEdge.rows, ["total", ...byEdge.totals, doc.header.edges]]),
  );
}

function factRows(rows) {
  const row = ([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value));
  return h("dl", { class: "provenance" }, rows.filter(Boolean).map(row));
}

function saveButton() {
  const save = () => {
    const address = URL.createObjectURL(new Blob([JSON.stringify(doc)], { type: "application/json" }));
    h("a", { href: address, download: `${doc.header.task}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  };
  return h("button", { type: "button", onclick: save }, "Save the data of this page (JSON)");
}

export function showProvenance(card) {
  const { header } = doc;
  const origins = Object.entries(header.origins).map(([name, [where, hash]]) => [
    name,
    h("span", null, where, " ", h("code", { class: "hash" }, hash ? `sha256 ${hash}` : "no hash")),
  ]);
  const reference = Object.entries(header.reference).map(
    ([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`,
  );
  const calibration =
    header.calibration_scale === null
      ? "none"
      : `scale ${num(header.calibration_scale)}, shift ${num(header.calibration_shift)}`;
  card.append(
    factRows([
      ...origins,
      ["how the prompt decides", header.determined_by],
      ["ablation values", [header.ablation, ...reference].join(" · ")],
      [
        "target",
        `${header.target_on === "loss" ? "uncalibrated" : "calibrated"} ${header.loss_kind} loss ≤ ${num(header.target_loss)} nats`,
      ],
      ["calibration", calibration],
      ["seed", String(header.seed)],
      ["examples", `${doc.examples.length} prompts of the ${doc.split} split`],
    ]),
    h(
      "details",
      { class: "recipe" },
      h("summary", null, "Pruning recipe"),
      h("pre", null, JSON.stringify(header.recipe, null, 2)),
    ),
    saveButton(),
    h("h3", null, "What the numbers mean"),
    h(
      "dl",
      { class: "glossary" },
      GLOSSARY.map(([name, text]) => h("div", null, h("dt", null, name), h("dd", null, text))),
    ),
  );
}
