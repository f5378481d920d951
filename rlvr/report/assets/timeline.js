// One function draws a step: a bar for each response, the update and the sync behind them.

const KIND_STYLES = [0, 2, 1, 6, 3];
const PHASE_STYLES = { update: 4, sync: 5 };

// One path for all bars of a kind: a step may have hundreds.
function barShapes(spec, x, top, rowHeight) {
  return spec.kinds.map((_, kind) => {
    const d = spec.rows.map(([begin, end, k], i) =>
      k === kind
        ? `M${x(begin).toFixed(1)} ${(top + (i + 0.5) * rowHeight).toFixed(2)}` +
          `H${Math.max(x(end), x(begin) + 1).toFixed(1)}`
        : "",
    );
    return svg("path", {
      class: `row k${KIND_STYLES[kind]}`,
      // gaps between thin rows would only wash them out
      "stroke-width": rowHeight < 3 ? rowHeight : rowHeight * 0.75,
      d: d.join(""),
    });
  });
}

function phaseShapes(spec, x, top, bottom) {
  return spec.phases.flatMap(([name, begin, end]) => {
    const key = `k${PHASE_STYLES[name] ?? 6}`,
      width = Math.max(1.5, x(end) - x(begin));
    const shade = { class: `span ${key}`, x: x(begin), y: top, width, height: bottom - top };
    return [
      svg("rect", shade),
      svg("path", { class: `line ${key}`, d: `M${x(begin)} ${top}h${width}` }),
    ];
  });
}

function drawTimeline(spec, width) {
  const rowHeight = Math.max(1, Math.min(8, 320 / Math.max(1, spec.rows.length)));
  const left = 10,
    right = width - 14,
    top = 14,
    bottom = top + Math.max(40, rowHeight * spec.rows.length) + 6,
    height = bottom + 34;
  const x = scale(0, spec.seconds || 1, left, right);
  const drawing = svg("svg", { width, height, "aria-hidden": "true" });
  for (const t of ticks(0, spec.seconds || 1, Math.max(2, Math.floor((right - left) / 70))))
    drawing.append(
      svg("path", { class: "grid-line", d: `M${x(t)} ${top}V${bottom}` }),
      svg("text", { x: x(t), y: bottom + 16, "text-anchor": "middle" }, number(t)),
    );
  drawing.append(
    ...phaseShapes(spec, x, top, bottom),
    ...barShapes(spec, x, top + 3, rowHeight),
    svg("path", { class: "axis", d: spec.ticks.map((t) => `M${x(t)} ${top - 8}v5`).join("") }),
    svg("path", { class: "axis", d: `M${left} ${bottom}H${right}` }),
    svg("text", { x: right, y: height - 3, "text-anchor": "end" }, "seconds"),
  );
  return drawing;
}

function timelineLegend(spec) {
  const entry = (name, shape) =>
    el("li", svg("svg", { width: 24, height: 12, "aria-hidden": "true" }, shape), name);
  const used = new Set(spec.rows.map((row) => row[2]));
  const bars = spec.kinds.flatMap((name, kind) => {
    const bar = { class: `row k${KIND_STYLES[kind]}`, "stroke-width": 5, d: "M0 6H24" };
    return used.has(kind) ? [entry(name, svg("path", bar))] : [];
  });
  const phases = [...new Set(spec.phases.map(([name]) => name))].map((name) => {
    const key = `k${PHASE_STYLES[name] ?? 6}`;
    const shape = svg("rect", { class: `span ${key}`, x: 0, y: 0, width: 24, height: 12 });
    const edge = svg("path", { class: `line ${key}`, d: "M0 1h24" });
    return entry(name === "sync" ? "sync: weights change" : name, [shape, edge]);
  });
  const tick = svg("path", { class: "axis", d: "M4 3v6M12 3v6M20 3v6" });
  return el("ul.legend", bars, phases, spec.ticks.length ? entry("groups taken", tick) : null);
}

function timelinePlot(spec) {
  const phases = spec.phases.map(
    ([name, begin, end]) => `${name} from ${number(begin)} to ${number(end)} s`,
  );
  const said = [`${number(spec.seconds)} s`, ...phases, spec.note].join("; ");
  const plot = el("div.plot", { role: "img", "aria-label": `${spec.title}: ${said}` });
  fit(plot, (width) => plot.replaceChildren(drawTimeline(spec, width)));
  return el(
    "figure.panel",
    el("figcaption", el("h3", spec.title)),
    timelineLegend(spec),
    plot,
    el("p.small", spec.note),
    lazyDetails("Numbers", () =>
      tableOf(
        "",
        ["response", "begin (s)", "end (s)", "state"],
        spec.rows.map(([begin, end, kind], i) => [
          String(i + 1),
          number(begin),
          number(end),
          spec.kinds[kind],
        ]),
      ),
    ),
  );
}
