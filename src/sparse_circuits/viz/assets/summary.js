// The head of the page: what the task asks, whether the circuit meets its target, and the key numbers as tiles.

import { h, num, plural, visible, whole } from "./dom.js";
import { doc } from "./state.js";

function tile(name, value, note, kind = "") {
  return h(
    "div",
    { class: `tile ${kind}` },
    h("dt", null, name),
    h("dd", { class: "value" }, value),
    h("dd", { class: "under" }, note),
  );
}

function percent(part, whole) {
  if (!whole) return "";
  const share = (100 * part) / whole;
  return `${share < 0.01 ? "<0.01" : num(share, 2)}%`;
}

function verdict(header) {
  if (header.met_target === null) {
    const claimed = header.published_loss ? `published loss ${num(header.published_loss.circuit)} (prompts not said), ` : "";
    return h("p", { class: "verdict" }, h("strong", null, "imported"), h("span", null, `${claimed}target not published`));
  }
  const name = header.target_on === "loss" ? "test loss" : "calibrated test loss";
  const loss = header.target_on === "loss" ? header.loss.test : header.calibrated_loss.test;
  const text = header.met_target ? "met target" : "missed target";
  const detail = `${name} ${num(loss)} ${header.met_target ? "≤" : "against"} ${num(header.target_loss)}`;
  return h(
    "p",
    { class: `verdict ${header.met_target ? "met" : "missed"}` },
    h("strong", null, header.met_target ? "✓ " : "✗ ", text),
    h("span", null, detail),
  );
}

function tiles(header) {
  const losses = `train ${num(header.loss.train)} · val ${num(header.loss.val)}`;
  const counts = { embed: header.edges_embed, unembed: header.edges_unembed, bias: header.edges_bias };
  const links = Object.entries(counts)
    .map(([name, count]) => (count === null ? `${name} not published` : `${count} ${name}`))
    .join(" · ");
  const quality = header.met_target === null ? "" : header.met_target ? "good" : "bad";
  const accuracy = header.accuracy === null ? "–" : `${num(100 * header.accuracy, 3)}%`;
  return h(
    "dl",
    { class: "tiles" },
    tile("circuit loss (test)", num(header.loss.test), losses, quality),
    tile(
      "calibrated loss",
      num(header.calibrated_loss.test),
      header.calibration_scale === null ? "no calibration" : `scale ${num(header.calibration_scale)}`,
    ),
    tile("full model loss", num(header.model_loss.test), "on the same pairs"),
    tile("empty circuit", num(header.empty_loss), "every node ablated"),
    tile("accuracy", accuracy, "right completion wins"),
    tile(
      "nodes",
      whole(header.nodes),
      `of ${whole(header.nodes_total)} (${percent(header.nodes, header.nodes_total)})`,
    ),
    tile("edges", whole(header.edges), links),
  );
}

function spare(count) {
  return count ? `${plural(count, "node or edge", "nodes and edges")} could go alone` : "minimal: no node or edge can go alone";
}

function completions() {
  const shown = [0, 1].map((label) => doc.examples.find((example) => example.label === label));
  const texts = shown
    .filter(Boolean)
    .flatMap((example, i) => [i ? " or " : "", h("code", null, visible(example.right))]);
  return texts.length ? h("span", null, "completions ", ...texts) : null;
}

export function showSummary(place) {
  const { header } = doc;
  document.title = `${header.task} · circuit`;
  const model = header.origins.model[0];
  place.append(
    h(
      "div",
      { class: "headline" },
      h("div", null, h("p", { class: "eyebrow" }, "circuit"), h("h1", null, header.task)),
      verdict(header),
    ),
    h("p", { class: "statement" }, header.statement),
    h(
      "p",
      { class: "meta" },
      h("span", null, `model ${model}`),
      completions(),
      h("span", null, `${header.loss_kind} loss in nats`),
      header.ablation ? h("span", null, `${header.ablation} ablation`) : null,
      header.constant_nodes ? h("span", null, plural(header.constant_nodes, "constant node")) : null,
      header.stranded_nodes ? h("span", null, plural(header.stranded_nodes, "stranded node")) : null,
      header.cut_edges ? h("span", null, `${plural(header.cut_edges, "edge")} cut`) : null,
      header.removable === null ? null : h("span", null, spare(header.removable)),
      doc.card ? h("a", { href: "#card-title" }, `report card: ${doc.card.verdict}`) : null,
    ),
    tiles(header),
  );
}
