// Loss against k: loss, on the prompts that choose nodes, with the k most important nodes kept, before the greedy deletion, with standard errors,
// the target, the loss of the full model, the smallest k whose plotted loss and error meet it, and the final circuit.

import { h, num, s, tips } from "./dom.js";
import { doc } from "./state.js";

const SIZE = { width: 760, height: 300, left: 48, right: 16, top: 14, bottom: 40 };

function niceTicks(top, count) {
  const raw = top / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= raw) ?? raw;
  const ticks = [];
  for (let value = 0; value <= top * 1.0001; value += step) ticks.push(Number(value.toPrecision(6)));
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = 1; power <= high; power *= 10)
    for (const m of [1, 2, 5]) if (m * power >= low && m * power <= high) ticks.push(m * power);
  return ticks;
}

function scales(points, log) {
  const { header } = doc;
  const ks = [...points.map((point) => point.nodes), header.nodes];
  const losses = points.map((point) => point.loss + (point.standard_error ?? 0));
  const highest = Math.max(...losses, header.target_loss, header.model_loss.val ?? 0, header.loss.val ?? 0) * 1.06;
  const [low, high] = [log ? Math.max(1, Math.min(...ks)) : 0, Math.max(...ks, 2)];
  const f = (k) => (log ? Math.log(Math.max(k, 1)) : k);
  const span = SIZE.width - SIZE.left - SIZE.right;
  const x = (k) => SIZE.left + (span * (f(k) - f(low))) / (f(high) - f(low) || 1);
  const y = (loss) => SIZE.height - SIZE.bottom - ((SIZE.height - SIZE.top - SIZE.bottom) * loss) / highest;
  return { x, y, xTicks: log ? logTicks(low, high) : niceTicks(high, 8), yTicks: niceTicks(highest, 5) };
}

function axes({ x, y, xTicks, yTicks }) {
  const [right, floor] = [SIZE.width - SIZE.right, SIZE.height - SIZE.bottom];
  return s(
    "g",
    { class: "axes" },
    yTicks
      .map((value) => [
        s("line", { x1: SIZE.left, x2: right, y1: y(value), y2: y(value) }),
        s("text", { x: SIZE.left - 8, y: y(value), class: "y" }, num(value, 2)),
      ])
      .flat(),
    xTicks.map((value) => s("text", { x: x(value), y: floor + 16, class: "x" }, String(value))),
    s("text", { x: (SIZE.left + right) / 2, y: SIZE.height - 6, class: "x title" }, "nodes kept, k"),
    s(
      "text",
      { class: "y title", transform: `translate(12 ${(SIZE.top + floor) / 2}) rotate(-90)` },
      "loss where nodes are chosen, nats",
    ),
  );
}

function level(y, loss, name, text, end) {
  if (loss === null) return null;
  const right = SIZE.width - SIZE.right;
  const label = s(
    "text",
    { x: end ? right - 4 : SIZE.left + 6, y: y(loss) - 5, "text-anchor": end ? "end" : "start" },
    `${text} ${num(loss)}`,
  );
  return s("g", { class: `level ${name}` }, s("line", { x1: SIZE.left, x2: right, y1: y(loss), y2: y(loss) }), label);
}

function dot(point, { x, y }, chosen) {
  const error = point.standard_error ?? 0;
  const lines = [`${point.nodes} nodes`, `loss ${num(point.loss)} ± ${num(error, 2)}`];
  const marks = [
    s("line", {
      class: "error",
      x1: x(point.nodes),
      x2: x(point.nodes),
      y1: y(point.loss - error),
      y2: y(point.loss + error),
    }),
  ];
  marks.push(
    s("circle", { cx: x(point.nodes), cy: y(point.loss), r: chosen ? 5.5 : 2.6, class: chosen ? "chosen" : null }),
  );
  return s(
    "g",
    { class: "dot", ...tips(...lines) },
    s("circle", { class: "hit-dot", cx: x(point.nodes), cy: y(point.loss), r: 8 }),
    marks,
  );
}

function picture(log) {
  const points = doc.curve.filter((point) => point.loss !== null).sort((a, b) => a.nodes - b.nodes);
  const scale = scales(points, log);
  const drawn = log ? points.filter((point) => point.nodes >= 1) : points;
  const { header } = doc;
  const chosen = points.find((point) => point.loss + (point.standard_error ?? 0) <= header.target_loss) ?? null;
  const route = drawn
    .map((point, i) => `${i ? "L" : "M"}${scale.x(point.nodes).toFixed(1)} ${scale.y(point.loss).toFixed(1)}`)
    .join("");
  const label = `loss where nodes are chosen against number of nodes; target ${num(header.target_loss)}, final circuit ${header.nodes} nodes at ${num(header.loss.val)}`;
  const final = [scale.x(header.nodes), scale.y(header.loss.val ?? 0)];
  return s(
    "svg",
    { class: "curve", viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: "img", "aria-label": label },
    axes(scale),
    level(scale.y, header.model_loss.val, "model", "full model", false),
    level(scale.y, header.target_loss, "target", "target", true),
    s("path", { class: "route", d: route }),
    drawn.map((point) => dot(point, scale, point === chosen)),
    header.loss.val === null
      ? null
      : s("path", {
          class: "final",
          d: `M${final[0]} ${final[1] - 7}l7 7l-7 7l-7 -7z`,
          ...tips("final circuit", `${header.nodes} nodes, val loss ${num(header.loss.val)}`),
        }),
  );
}

export function showCurve(card) {
  if (doc.curve.length < 2) {
    card.append(h("p", { class: "note" }, "No sweep over k is stored with this circuit."));
    return;
  }
  const holder = h("div", { class: "curve-holder" });
  const box = h("input", { type: "checkbox", onchange: () => holder.replaceChildren(picture(box.checked)) });
  const key = (name, text) => h("li", null, h("span", { class: `swatch ${name}`, "aria-hidden": "true" }), text);
  holder.append(picture(false));
  card.append(
    h("div", { class: "controls" }, h("label", { class: "toggle plain" }, box, "logarithmic k")),
    holder,
    h(
      "ul",
      { class: "legend" },
      key("key-chosen", "smallest k with loss + 1 s.e. ≤ target"),
      key("key-final", "final circuit, after greedy deletion"),
    ),
  );
}
