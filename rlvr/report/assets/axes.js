// What line charts and forest plots share: markers, ticks, scales, and fitting the width.

const NUM_STYLES = 7;
const MARKERS = [
  (x, y, r) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
  (x, y, r) => `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}Z`,
  (x, y, r) => `M${x} ${y - r * 1.2}l${r * 1.2} ${r * 2.1}h${-r * 2.4}Z`,
  (x, y, r) =>
    `M${x} ${y - r * 1.35}l${r * 1.35} ${r * 1.35}l${-r * 1.35} ${r * 1.35}` +
    `l${-r * 1.35} ${-r * 1.35}Z`,
  (x, y, r) => `M${x - r} ${y - r}l${2 * r} ${2 * r}M${x + r} ${y - r}l${-2 * r} ${2 * r}`,
  (x, y, r) => `M${x} ${y + r * 1.2}l${r * 1.2} ${-r * 2.1}h${-r * 2.4}Z`,
  (x, y, r) => `M${x - r * 1.2} ${y}h${2.4 * r}M${x} ${y - r * 1.2}v${2.4 * r}`,
];

// At most `count` round numbers between lo and hi; on a logarithmic axis powers of ten, or 1, 2, 5.
function ticks(lo, hi, count, log, whole) {
  const found = [];
  if (log) {
    const low = Math.floor(Math.log10(lo) + 1e-9),
      high = Math.ceil(Math.log10(hi) - 1e-9);
    const every = Math.max(1, Math.ceil((high - low) / count));
    const decades = Math.log10(hi / lo),
      parts = decades < 1 ? [1, 2, 3, 5, 7] : decades < 2 ? [1, 2, 5] : [1];
    for (let e = low; e <= high; e += every) for (const part of parts) found.push(part * 10 ** e);
    const inside = found.filter((t) => t >= lo * 0.999 && t <= hi * 1.001);
    return inside.length ? inside : [lo, hi];
  }
  const rough = (hi - lo) / count,
    unit = 10 ** Math.floor(Math.log10(rough));
  let step = unit * [1, 2, 5, 10].find((m) => m * unit >= rough * 0.75);
  if (whole) step = Math.max(1, Math.round(step));
  for (let i = Math.ceil(lo / step - 1e-9); i * step <= hi + 1e-9 * step; i++)
    found.push(Number((i * step).toPrecision(12)));
  return found;
}

// Maps a value to a position between the ends; undefined where a logarithm does not exist.
function scale(lo, hi, from, to, log) {
  const f = log ? Math.log : (v) => v;
  const a = f(lo),
    width = f(hi) - a || 1;
  return (v) => from + ((f(v) - a) / width) * (to - from);
}

function extent(values, axis) {
  let lo = Infinity,
    hi = -Infinity;
  for (const v of values)
    if (v !== null && (!axis.log || v > 0)) {
      if (v < lo) lo = v;
      if (v > hi) hi = v;
    }
  if (lo > hi) return axis.log ? [0.1, 1] : [0, 1];
  if (axis.zero) lo = Math.min(lo, 0);
  if (axis.log) return lo === hi ? [lo / 2, hi * 2] : [lo, hi];
  if (lo === hi) return [lo - Math.abs(lo || 1) * 0.1, hi + Math.abs(hi || 1) * 0.1];
  const room = axis.pad ? (hi - lo) * 0.06 : 0;
  return [axis.zero && lo === 0 ? 0 : lo - room, hi + room];
}

const path = (points, x, y) => {
  let text = "",
    pen = "M";
  for (const [a, b] of points) {
    if (a === null || b === null || !Number.isFinite(y(b)) || !Number.isFinite(x(a))) pen = "M";
    else {
      text += `${pen}${x(a).toFixed(1)} ${y(b).toFixed(1)}`;
      pen = "L";
    }
  }
  return text;
};

// Calls draw(width) now that the node has a width, and again whenever that changes.
function fit(node, draw) {
  let last = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width > 0 && width !== last) draw((last = width));
  }).observe(node);
}
