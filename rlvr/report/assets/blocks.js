// One function per kind of block; the data say which blocks stand where.

function tableOf(caption, columns, rows) {
  const long = columns.map((_, i) => i > 0 && rows.some((row) => String(row[i] ?? "").length > 32));
  const words = (i) => (long[i] ? "words" : null);
  const cell = (value, i) =>
    i === 0 ? el("th", { scope: "row" }, value) : el("td", { class: words(i) }, value);
  const head = columns.map((c, i) => el("th", { scope: "col", class: words(i) }, c));
  const body = rows.map((row) =>
    el(
      "tr",
      row.map((v, i) => cell(String(v ?? ""), i)),
    ),
  );
  return el(
    "div.scroll",
    { tabindex: 0, role: "region", "aria-label": caption || "table" },
    el(
      "table",
      caption ? el("caption", caption) : null,
      el("thead", el("tr", head)),
      el("tbody", body),
    ),
  );
}

// Content that is made when it is opened.
function lazyDetails(summary, make) {
  const node = el("details", el("summary", summary));
  node.addEventListener("toggle", () => {
    if (node.open && node.children.length === 1) node.append(make());
  });
  return node;
}

const WORDS = { problem: "Problem", warning: "Warning", note: "Note", good: "Good" };

const finding = (item) =>
  el(
    `article.finding.${item.level}`,
    { "data-id": item.id },
    el("h3", el("span.badge", WORDS[item.level]), item.title),
    list("ul", item.evidence),
    item.remedy.length ? list("ul.remedy", item.remedy) : null,
  );

const BLOCKS = {
  chart: lineChart,
  forest: forestPlot,
  timeline: timelinePlot,
  text: (b) => el("p", b.text),
  pre: (b) => el("pre", { tabindex: 0 }, b.text),
  list: (b) => list("ul.panel.sentences", b.items),
  table: (b) => el("div.panel", tableOf(b.caption, b.columns, b.rows)),
  facts: (b) =>
    el(
      "dl.facts.panel",
      b.rows.map(([name, value]) => [el("dt", name), el("dd", value)]),
    ),
  tiles: (b) =>
    el(
      "div.tiles",
      b.rows.map(([name, value, note]) =>
        el("dl.tile", el("dt", name), el("dd", value), el("dd.small", note)),
      ),
    ),
  findings: (b) => el("div.findings", b.items.map(finding)),
  details: (b) => {
    const node = lazyDetails(b.summary, () => el("div.flow", laidOut(b.blocks.map(block))));
    node.classList.add("panel");
    return node;
  },
  rollouts: rolloutBrowser,
};

const block = (data) => BLOCKS[data.type](data);
