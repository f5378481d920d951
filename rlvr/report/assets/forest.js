// One function draws every forest plot: intervals under each other.

// Percent and points: one decimal, so that rows compare at a glance.
const fixed = (v) => (v === null ? "-" : v.toFixed(1));

function drawForest(spec, width) {
  const narrow = width < 560,
    rowHeight = narrow ? 44 : 28,
    top = 6;
  const texts = spec.rows.map(
    ([, v, lo, hi, remark]) =>
      `${fixed(v)} [${fixed(lo)}, ${fixed(hi)}]${remark ? ` · ${remark}` : ""}`,
  );
  const labelWidth = Math.min(
    0.35 * width,
    12 + 7.2 * Math.max(...spec.rows.map((r) => r[0].length)),
  );
  const textWidth = 12 + 6.5 * Math.max(...texts.map((t) => t.length));
  const left = narrow ? 12 : labelWidth,
    right = narrow ? width - 12 : width - textWidth;
  const ends = spec.rows.flatMap((r) => [r[1], r[2], r[3]]);
  const [lo, hi] = extent(spec.zero ? [...ends, 0] : ends, { pad: true });
  const x = scale(lo, hi, left, right),
    bottom = top + spec.rows.length * rowHeight,
    height = bottom + 34;
  const drawing = svg("svg", { width, height, "aria-hidden": "true" });
  for (const t of ticks(lo, hi, Math.max(2, Math.floor((right - left) / 70))))
    drawing.append(
      svg("path", {
        class: spec.zero && t === 0 ? "axis" : "grid-line",
        d: `M${x(t)} ${top}V${bottom}`,
      }),
      svg("text", { x: x(t), y: bottom + 14, "text-anchor": "middle" }, number(t)),
    );
  drawing.append(svg("text", { x: right, y: height - 3, "text-anchor": "end" }, spec.x));
  spec.rows.forEach(([label, value, a, b, , filled], i) => {
    const y = top + i * rowHeight + (narrow ? 32 : rowHeight / 2);
    const key = filled ? "k0" : "k6";
    drawing.append(
      svg(
        "text",
        {
          class: "strong",
          x: narrow ? 2 : left - 12,
          y: narrow ? y - 14 : y + 4,
          "text-anchor": narrow ? "start" : "end",
        },
        label,
      ),
      svg("text", { x: width - 2, y: narrow ? y - 14 : y + 4, "text-anchor": "end" }, texts[i]),
      svg("path", { class: `bar ${key}`, d: `M${x(a)} ${y - 4}v8m0 -4H${x(b)}m0 -4v8` }),
      svg("path", {
        class: `marker ${key}${filled ? "" : " hollow"}`,
        d: MARKERS[1](x(value), y, 4.2),
      }),
    );
  });
  return drawing;
}

function forestPlot(spec) {
  const rows = spec.rows.map(([label, v, lo, hi, remark]) => [
    label,
    fixed(v),
    `[${fixed(lo)}, ${fixed(hi)}]`,
    remark,
  ]);
  const said = rows.map((r) => r.join(" ")).join("; ");
  const plot = el("div.plot", {
    role: "img",
    "aria-label": `${spec.title}, in ${spec.x}: ${said}`,
  });
  fit(plot, (width) => plot.replaceChildren(drawForest(spec, width)));
  return el(
    "figure.panel",
    el("figcaption", el("h3", spec.title)),
    plot,
    spec.note ? el("p.small", spec.note) : null,
  );
}
