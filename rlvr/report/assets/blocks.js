// One function per kind of block; the data say which blocks stand where.

function tableOf(caption, columns, rows) {
  const long = columns.map((_, i) => i > 0 && rows.some((row) => String(row[i] ?? "").length > 32));
  const cell = (value, i) =>
    i === 0
      ? el("th", { scope: "row" }, value)
      : el("td", { class: long[i] ? "words" : null }, value);
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption || "table" },
    el(
      "table",
      {},
      caption ? el("caption", {}, caption) : null,
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          columns.map((c, i) => el("th", { scope: "col", class: long[i] ? "words" : null }, c)),
        ),
      ),
      el(
        "tbody",
        {},
        rows.map((row) =>
          el(
            "tr",
            {},
            row.map((v, i) => cell(String(v ?? ""), i)),
          ),
        ),
      ),
    ),
  );
}

// Content that is made when it is opened.
function lazyDetails(summary, make) {
  const node = el("details", {}, el("summary", {}, summary));
  node.addEventListener("toggle", () => {
    if (node.open && node.children.length === 1) node.append(make());
  });
  return node;
}

const WORDS = { problem: "Problem", warning: "Warning", note: "Note", good: "Good" };

function finding(item) {
  return el(
    "article",
    { class: `finding ${item.level}`, "data-id": item.id },
    el("h3", {}, el("span", { class: "badge" }, WORDS[item.level]), item.title),
    el(
      "ul",
      {},
      item.evidence.map((line) => el("li", {}, line)),
    ),
    item.remedy.length
      ? el(
          "ul",
          { class: "remedy" },
          item.remedy.map((line) => el("li", {}, line)),
        )
      : null,
  );
}

const BLOCKS = {
  chart: lineChart,
  forest: forestPlot,
  text: (b) => el("p", {}, b.text),
  pre: (b) => el("pre", { tabindex: 0 }, b.text),
  list: (b) =>
    el(
      "ul",
      { class: "panel sentences" },
      b.items.map((line) => el("li", {}, line)),
    ),
  table: (b) => el("div", { class: "panel" }, tableOf(b.caption, b.columns, b.rows)),
  facts: (b) =>
    el(
      "dl",
      { class: "facts panel" },
      b.rows.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
    ),
  tiles: (b) =>
    el(
      "div",
      { class: "tiles" },
      b.rows.map(([name, value, note]) =>
        el(
          "dl",
          { class: "tile" },
          el("dt", {}, name),
          el("dd", {}, value),
          el("dd", { class: "small" }, note),
        ),
      ),
    ),
  findings: (b) => el("div", { class: "findings" }, b.items.map(finding)),
  details: (b) => {
    const node = lazyDetails(b.summary, () =>
      el("div", { class: "flow" }, laidOut(b.blocks.map(block))),
    );
    node.classList.add("panel");
    return node;
  },
  rollouts: rolloutBrowser,
};

const block = (data) => BLOCKS[data.type](data);
