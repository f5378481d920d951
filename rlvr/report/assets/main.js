// Builds the page from its data; the live page asks for new data and changes only what differs.

const REFRESH_MS = 2000;
const shown = new Map(); // section id -> { node, flow, blocks: [{ text, type, node }] }
let tag = null;

const title = el("h1"),
  subtitle = el("p.subtitle"),
  state = el("p.status", { role: "status" });
const links = el("ul"),
  content = el("main", { id: "content", tabindex: -1 });

function build(data) {
  document.title = data.title;
  title.textContent = data.title;
  subtitle.textContent = data.subtitle;
  state.textContent = LIVE
    ? `live; changed ${data.written}`
    : `written ${data.written} by rlvr report`;
  if (data.sections.length !== shown.size || data.sections.some((s) => !shown.has(s.id))) {
    links.replaceChildren(
      ...data.sections.map((s) => el("li", el("a", { href: `#${s.id}` }, s.title))),
    );
  }
  for (const id of shown.keys())
    if (!data.sections.some((s) => s.id === id)) (shown.get(id).node.remove(), shown.delete(id));
  data.sections.forEach((s, i) => {
    if (!shown.has(s.id)) shown.set(s.id, newSection(s));
    const kept = shown.get(s.id);
    if (content.children[i] !== kept.node)
      content.insertBefore(kept.node, content.children[i] ?? null);
    fillSection(kept, s.blocks);
  });
}

function newSection(s) {
  const flow = el("div.flow");
  const node = el(
    "section",
    { id: s.id, "aria-labelledby": `${s.id}-title` },
    el("h2", { id: `${s.id}-title` }, s.title),
    s.intro ? el("p.intro", s.intro) : null,
    flow,
  );
  return { node, flow, blocks: [] };
}

// Replaces the blocks that differ; lays them all out anew where their kinds have changed.
function fillSection(kept, blocks) {
  const same =
    kept.blocks.length === blocks.length && blocks.every((b, i) => b.type === kept.blocks[i].type);
  const old = kept.blocks;
  kept.blocks = blocks.map((data, i) => {
    const text = JSON.stringify(data),
      before = old[i]?.type === data.type ? old[i] : null;
    if (before?.text === text) return before;
    if (before && data.type === "rollouts") {
      before.node.update(data);
      return { ...before, text };
    }
    const node = block(data);
    if (before) replace(before.node, node);
    return { text, type: data.type, node };
  });
  if (!same) kept.flow.replaceChildren(...laidOut(kept.blocks.map((b) => b.node)));
}

function replace(before, node) {
  const focused = before.contains(document.activeElement);
  before.replaceWith(node);
  if (before.tagName === "DETAILS" && before.open) node.open = true;
  if (focused) node.querySelector("[tabindex]")?.focus({ preventScroll: true });
}

// Charts next to each other share a grid.
function laidOut(nodes) {
  const rows = [];
  for (const node of nodes) {
    const half = node.classList.contains("half");
    if (half && rows.at(-1)?.className === "charts") rows.at(-1).append(node);
    else rows.push(half ? el("div.charts", node) : node);
  }
  return rows;
}

async function refresh() {
  try {
    const answer = await fetch("/data.json", { headers: tag ? { "If-None-Match": tag } : {} });
    if (answer.status === 200) {
      tag = answer.headers.get("ETag");
      build(await answer.json());
    }
  } catch {
    state.textContent = "live: the server does not answer; is rlvr report --live still running?";
  }
  setTimeout(refresh, REFRESH_MS);
}

document.body.append(
  el("a.skip", { href: "#content" }, "Skip to content"),
  el("header.top", title, subtitle, state),
  el("nav", { "aria-label": "Sections" }, links),
  content,
);
build(JSON.parse(document.getElementById("data").textContent));
if (LIVE) setTimeout(refresh, REFRESH_MS);
