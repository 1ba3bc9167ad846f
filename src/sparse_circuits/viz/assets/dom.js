// Small tools for building the page: elements, numbers, visible token texts, one tooltip.
// Text always goes in as text nodes, never as markup, so no token can become HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// An HTML element: h("p", {class: "note"}, "text", child).
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// The same for SVG.
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// A number for people: three significant digits, a true minus sign, a dash where there is none.
export function num(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-4 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
  return text.replace("-", "−").replace("e−", "e-").replace("e+", "e");
}

export function signed(value, digits = 3) {
  return value > 0 ? `+${num(value, digits)}` : num(value, digits);
}

export function whole(value) {
  return value.toLocaleString("en-US").replaceAll(",", "\u202f");
}

export function plural(count, one, many = `${one}s`) {
  return `${whole(count)} ${count === 1 ? one : many}`;
}

// Token text with its white space shown: space as a dot, newline and tab as arrows, other controls as escapes.
export function visible(text) {
  const shown = text.replaceAll(" ", "·").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
  // eslint-disable-next-line no-control-regex
  const escaped = shown.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, (character) => {
    const code = character.charCodeAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16)}`;
  });
  return escaped === "" ? "∅" : escaped;
}

export function clip(text, length) {
  const characters = [...text];
  return characters.length > length ? `${characters.slice(0, length - 1).join("")}…` : text;
}

const tooltip = h("div", { class: "tooltip", role: "tooltip", hidden: true });

// Shows lines of text beside the pointer (or beside the element, for keyboard focus).
export function showTip(event, ...lines) {
  tooltip.replaceChildren(...lines.map((line) => h("div", null, line)));
  tooltip.hidden = false;
  if (!tooltip.isConnected) document.body.append(tooltip);
  const box = event.target.getBoundingClientRect();
  const x = event.clientX || box.right;
  const y = event.clientY || box.bottom;
  const { width, height } = tooltip.getBoundingClientRect();
  const left = x + 14 + width > innerWidth ? x - width - 10 : x + 14;
  const top = y + 16 + height > innerHeight ? y - height - 10 : y + 16;
  tooltip.style.left = `${Math.max(4, left)}px`;
  tooltip.style.top = `${Math.max(4, top)}px`;
}

export function hideTip() {
  tooltip.hidden = true;
}

// Attributes that give an element a tooltip with these lines.
export function tips(...lines) {
  return { onpointermove: (event) => showTip(event, ...lines), onpointerleave: hideTip };
}
