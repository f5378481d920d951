// One function draws every line chart from its data.

function seriesShapes(s, x, y) {
  const style = s.style % NUM_STYLES,
    key = `k${style}`,
    shapes = [];
  const drawn = s.points.filter(([a, b]) => a !== null && b !== null && Number.isFinite(y(b)));
  if (s.band.length && s.kind === "bars")
    for (const [a, lo, hi] of s.band)
      shapes.push(
        svg("path", { class: `bar ${key}`, d: `M${x(a) - 4} ${y(lo)}h8m-4 0V${y(hi)}m-4 0h8` }),
      );
  else if (s.band.length) {
    const whole = s.band.filter(([, lo, hi]) => lo !== null && hi !== null);
    const edge = [
      ...whole.map(([a, , hi]) => [a, hi]),
      ...whole.reverse().map(([a, lo]) => [a, lo]),
    ];
    shapes.push(svg("path", { class: `band ${key}`, d: path(edge, x, y) + "Z" }));
  }
  if (s.kind === "dots")
    return [
      svg("path", {
        class: `faint ${key}`,
        d: drawn.map(([a, b]) => `M${x(a).toFixed(1)} ${y(b).toFixed(1)}h0`).join(""),
      }),
    ];
  if (s.kind !== "points")
    shapes.push(svg("path", { class: `line ${key}`, d: path(s.points, x, y) }));
  if (s.kind !== "line" || drawn.length === 1)
    shapes.push(
      svg("path", {
        class: `marker ${key}`,
        d: drawn.map(([a, b]) => MARKERS[style](x(a), y(b), 3.6)).join(""),
      }),
    );
  return shapes;
}

function markShapes(mark, x, top, bottom) {
  const key = `k${mark.style % NUM_STYLES}`,
    shapes = [];
  if (mark.span)
    shapes.push(
      svg("rect", {
        class: `span ${key}`,
        x: x(mark.span[0]),
        y: top,
        width: Math.max(1, x(mark.span[1]) - x(mark.span[0])),
        height: bottom - top,
      }),
    );
  shapes.push(svg("path", { class: `line ${key}`, d: `M${x(mark.x)} ${top}V${bottom}` }));
  return shapes;
}

function legend(spec) {
  const entry = (name, style, kind) => {
    const key = `k${style % NUM_STYLES}`;
    const sample = svg("svg", { width: 30, height: 12, "aria-hidden": "true" });
    if (kind === "dots")
      sample.append(svg("path", { class: `faint ${key}`, d: "M6 6h0M15 6h0M24 6h0" }));
    else if (kind !== "points") sample.append(svg("path", { class: `line ${key}`, d: "M0 6H30" }));
    if (["points", "marks", "bars"].includes(kind))
      sample.append(
        svg("path", { class: `marker ${key}`, d: MARKERS[style % NUM_STYLES](15, 6, 3.6) }),
      );
    return el("li", sample, name);
  };
  const series = spec.series.map((s) => entry(s.name, s.style, s.kind));
  const marks = spec.marks.map((m) =>
    entry(
      `${m.name} ${number(m.x)}${m.span ? ` [${number(m.span[0])}, ${number(m.span[1])}]` : ""}`,
      m.style,
      "line",
    ),
  );
  return series.length + marks.length > 1 ? el("ul.legend", series, marks) : null;
}

// The drawing for one width; returns the svg and what the cursor needs.
function drawLines(spec, width) {
  const height = Math.max(200, Math.min(280, width * 0.5));
  const points = spec.series.flatMap((s) => s.points),
    bands = spec.series.flatMap((s) => s.band);
  const xs = [...points.map((p) => p[0]), ...spec.marks.map((m) => m.x)];
  const [x0, x1] = extent(xs, spec.x);
  const yAxis = { ...spec.y, pad: true };
  let [y0, y1] = extent([...points.map((p) => p[1]), ...bands.flatMap((b) => [b[1], b[2]])], yAxis);
  if (spec.y.percent)
    ((y0 = Math.max(y0, Math.min(0, ...points.map((p) => p[1] ?? 0)))),
      (y1 = Math.min(y1, Math.max(1, ...points.map((p) => p[1] ?? 0)))));
  const yTicks = ticks(y0, y1, 5, spec.y.log),
    labels = yTicks.map((t) => number(t, spec.y.percent));
  const left = 14 + 6.6 * Math.max(3, ...labels.map((l) => l.length)),
    top = 20,
    bottom = height - 34,
    right = width - 22;
  const x = scale(x0, x1, left, right, spec.x.log),
    y = scale(y0, y1, bottom, top, spec.y.log);
  const whole = xs.every((v) => v === null || Number.isInteger(v));
  const xTicks = ticks(x0, x1, Math.max(3, Math.floor((right - left) / 75)), spec.x.log, whole);
  const drawing = svg("svg", { width, height, "aria-hidden": "true" });
  drawing.append(
    svg("text", { x: 4, y: 11 }, spec.y.label),
    svg("text", { x: right, y: height - 3, "text-anchor": "end" }, spec.x.label),
  );
  yTicks.forEach((t, i) =>
    drawing.append(
      svg("path", { class: "grid-line", d: `M${left} ${y(t)}H${right}` }),
      svg("text", { x: left - 6, y: y(t) + 4, "text-anchor": "end" }, labels[i]),
    ),
  );
  xTicks.forEach((t) =>
    drawing.append(
      svg("path", { class: "axis", d: `M${x(t)} ${bottom}v4` }),
      svg("text", { x: x(t), y: bottom + 16, "text-anchor": "middle" }, number(t)),
    ),
  );
  drawing.append(svg("path", { class: "axis", d: `M${left} ${bottom}H${right}` }));
  const clip = (v) => Math.min(right, Math.max(left, v));
  for (const mark of spec.marks)
    drawing.append(...markShapes(mark, (v) => clip(x(v)), top, bottom));
  for (const s of spec.series) drawing.append(...seriesShapes(s, x, y));
  const cursor = svg("path", { class: "cursor", d: "" });
  drawing.append(cursor);
  return { drawing, cursor, x, top, bottom };
}

function lineChart(spec) {
  const solid = spec.series.filter((s) => s.kind !== "dots");
  const alone = solid.length + spec.marks.length === 1; // nothing to tell apart: no dashes
  const positions = [...new Set(spec.series.flatMap((s) => s.points.map((p) => p[0])))]
    .filter((v) => v !== null)
    .sort((a, b) => a - b);
  const values = spec.series.map((s) => new Map(s.points.map((p) => [p[0], p[1]])));
  const readout = el("p.readout");
  const plot = el("div.plot", {
    tabindex: 0,
    role: "slider",
    "aria-label": `${spec.title}: read values with the arrow keys`,
    "aria-valuemin": 0,
    "aria-valuemax": positions.length - 1,
    "aria-valuenow": positions.length - 1,
  });
  let state = null,
    at = positions.length - 1;
  const describe = (i) => {
    const here = spec.series.flatMap((s, k) =>
      values[k].has(positions[i])
        ? `${s.name} ${number(values[k].get(positions[i]), spec.y.percent)}`
        : [],
    );
    return `${spec.x.label} ${number(positions[i])}: ${here.join(" · ")}`;
  };
  const show = (i) => {
    at = Math.max(0, Math.min(positions.length - 1, i));
    plot.setAttribute("aria-valuenow", at);
    plot.setAttribute("aria-valuetext", describe(at));
    readout.textContent = describe(at);
    state?.cursor.setAttribute("d", `M${state.x(positions[at])} ${state.top}V${state.bottom}`);
  };
  const hide = () => {
    readout.textContent = spec.x.label === "step" ? describe(positions.length - 1) : "";
    state?.cursor.setAttribute("d", "");
  };
  plot.setAttribute("aria-valuetext", describe(at));
  hide();
  const moves = {
    ArrowLeft: -1,
    ArrowDown: -1,
    ArrowRight: 1,
    ArrowUp: 1,
    PageUp: 10,
    PageDown: -10,
    Home: -Infinity,
    End: Infinity,
  };
  plot.addEventListener("keydown", (event) => {
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(at + moves[event.key]);
  });
  plot.addEventListener("blur", hide);
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("pointermove", (event) => {
    const px = event.clientX - plot.getBoundingClientRect().left;
    let best = 0;
    positions.forEach((v, i) => {
      if (Math.abs(state.x(v) - px) < Math.abs(state.x(positions[best]) - px)) best = i;
    });
    show(best);
  });
  fit(plot, (width) => {
    state = drawLines(spec, width);
    plot.replaceChildren(state.drawing);
  });
  return el(
    alone ? "figure.panel.half.alone" : "figure.panel.half",
    el("figcaption", el("h3", spec.title)),
    legend(spec),
    plot,
    readout,
    spec.note ? el("p.small", spec.note) : null,
    lazyDetails("Numbers", () => numbersTable(spec, positions, values)),
  );
}

function numbersTable(spec, positions, values) {
  const head = [spec.x.label, ...spec.series.map((s) => s.name)];
  const rows = positions.map((p) => [
    number(p),
    ...values.map((v) => (v.has(p) ? number(v.get(p)) : "")),
  ]);
  return tableOf("", head, rows);
}
