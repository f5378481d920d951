"use strict";
// Every element of the page is made here. Text reaches the page as text nodes and nothing else.

// Attributes may be left out before children; null is no attribute and no child.
function put(node, classes, parts) {
  if (classes.length) node.setAttribute("class", classes.join(" "));
  const isAttributes = parts[0]?.constructor === Object;
  for (const [name, value] of Object.entries(isAttributes ? parts[0] : {}))
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  const children = (isAttributes ? parts.slice(1) : parts).flat(Infinity);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// el("div.panel.half", {role: "img"}, child, ...)
function el(name, ...parts) {
  const [tag, ...classes] = name.split(".");
  return put(document.createElement(tag), classes, parts);
}

const svg = (tag, ...parts) =>
  put(document.createElementNS("http://www.w3.org/2000/svg", tag), [], parts);

const list = (name, items) =>
  el(
    name,
    items.map((item) => el("li", item)),
  );

// A number as a person reads it: 4 digits, thousands apart, powers of ten where they are shorter.
function number(value, percent = false) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "-";
  if (percent) return `${Number((100 * value).toPrecision(3))}%`;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7))
    return value
      .toExponential(2)
      .replace(/\.?0+e/, "e")
      .replace("e+", "e");
  return Number(value.toPrecision(size >= 1e4 ? 6 : 4)).toLocaleString("en-US", {
    maximumFractionDigits: 6,
  });
}
