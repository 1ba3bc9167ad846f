// The report card, where the circuit has one: verdict with reasons, and a line per question with value, control and threshold.

import { h, num, plural } from "./dom.js";
import { doc } from "./state.js";

const OUTCOMES = { pass: "pass", fail: "fail", "not applicable": "n/a" };

function cardInterval(found) {
  if (found === null) return "–";
  const [value, low, high] = found;
  return low === high ? num(value) : [num(value), h("span", { class: "note" }, ` ${num(low)} to ${num(high)}`)].flat();
}

function cardControl(row) {
  if (row.control === null) return "–";
  return [num(row.control[0]), h("div", { class: "note" }, row.control_name)];
}

function cardLine(row) {
  const open = h("details", null, h("summary", null, row.name), h("p", null, row.reason));
  return h(
    "tr",
    { class: row.outcome.replace(" ", "-") },
    h("td", { class: "note" }, row.number),
    h("th", { scope: "row" }, open, h("div", { class: "note" }, row.unit)),
    h("td", null, cardInterval(row.value)),
    h("td", null, cardControl(row)),
    h("td", null, row.threshold),
    h("td", { class: "outcome" }, OUTCOMES[row.outcome]),
  );
}

function cardHead({ verdict, passed, reasons }) {
  const why = reasons.length ? reasons : ["every question that applies was measured and passed"];
  return h(
    "div",
    { class: "card-verdict" },
    h("p", { class: `verdict ${passed ? "met" : "missed"}` }, h("strong", null, verdict)),
    h("ul", null, why.map((reason) => h("li", null, reason))),
  );
}

export function showCard(section, place) {
  const { card } = doc;
  section.hidden = card === null;
  if (card === null) return;
  const kind = card.quick ? "Quick card" : "Full card";
  const controls = card.controls.length ? `controls ${card.controls.join(", ")}` : "no control that prunes again";
  const about = `${kind}: ${plural(card.pairs, "pair")} of ${card.split}, ${controls}. `;
  const columns = ["", "question", "value, 95% interval", "control", "needed", "outcome"];
  place.append(
    cardHead(card),
    h(
      "div",
      { class: "scroll-x" },
      h(
        "table",
        { class: "report-card" },
        h("thead", null, h("tr", null, columns.map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", null, card.rows.map(cardLine)),
      ),
    ),
    h("p", { class: "note" }, `${about}Intervals are over pairs, clustered by template, and over what is drawn at random; open a name for the reason.`),
  );
}
