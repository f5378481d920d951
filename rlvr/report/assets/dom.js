"use strict";
// Every element of the page is made here. Text reaches the page as text nodes and nothing else.

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

const el = (tag, attributes = {}, ...children) =>
  put(document.createElement(tag), attributes, children);

const svg = (tag, attributes = {}, ...children) =>
  put(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

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
