// Puts the page together: each section fills its own card.

import { showCard } from "./card.js";
import { h } from "./dom.js";
import { showCurve } from "./curve.js";
import { showGraph } from "./graph.js";
import { showPanel } from "./panel.js";
import { findNode, nodes, select, selectFromHash } from "./state.js";
import { showSummary } from "./summary.js";
import { showCounts, showHeatList, showProvenance } from "./tables.js";

const at = (id) => document.getElementById(id);

// The search box over the picture: a known name selects its node.
function showSearch(place) {
  const list = h(
    "datalist",
    { id: "node-names" },
    nodes.map((node) => h("option", { value: node.name })),
  );
  const box = h("input", {
    type: "search",
    list: "node-names",
    placeholder: "find a node",
    "aria-label": "find a node by name",
  });
  box.addEventListener("input", () => {
    const found = findNode(box.value);
    if (found !== null) select(found);
  });
  place.append(box, list);
}

showSummary(at("summary"));
showCard(at("card-section"), at("card"));
showSearch(at("search"));
showGraph(at("graph"));
showPanel(at("panel"));
showHeatList(at("heat"));
showCurve(at("curve"));
showCounts(at("counts"));
showProvenance(at("provenance"));
addEventListener("hashchange", selectFromHash);
selectFromHash();
