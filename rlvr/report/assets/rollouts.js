// The rollouts: filters by run, step, verdict and text over chunks that are read when needed.

const PER_PAGE = 24; // groups shown before "show more"
const LIVE = document.body.dataset.live === "yes";
const chunks = new Map();

// The groups of one step: from this file (base64 of gzip of JSON), or from the live server.
async function stepGroups(run, step) {
  const key = `${run}-${step}`;
  if (chunks.has(key)) return chunks.get(key);
  let groups;
  if (LIVE) {
    const answer = await fetch(`/rollouts/${run}/${step}.json`);
    groups = answer.ok ? await answer.json() : [];
  } else {
    const bytes = Uint8Array.from(
      atob(document.getElementById(`rollouts-${key}`).textContent),
      (c) => c.charCodeAt(0),
    );
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    groups = await new Response(stream).json();
  }
  if (chunks.size > 400) chunks.delete(chunks.keys().next().value);
  chunks.set(key, groups);
  return groups;
}

// The text with every match of `needle` (lower case) marked.
function marked(text, needle) {
  if (!needle) return [text];
  const parts = [],
    lower = text.toLowerCase();
  let from = 0;
  for (
    let at = lower.indexOf(needle);
    at >= 0 && parts.length < 200;
    at = lower.indexOf(needle, from)
  ) {
    parts.push(text.slice(from, at), el("mark", text.slice(at, at + needle.length)));
    from = at + needle.length;
  }
  return [...parts, text.slice(from)];
}

const meta = (...texts) =>
  el(
    "div.meta",
    texts.map((text) => (typeof text === "string" ? el("span", text) : text)),
  );

function responseNode(r, needle) {
  const right = r.reason === "correct",
    signed = typeof r.advantage === "number" && r.advantage > 0 ? "+" : "";
  const verdict = el(
    `span.verdict.${right ? "right" : "other"}`,
    `${right ? "\u2713" : "\u2717"} ${r.reason}`,
  );
  const facts = [
    `reward ${number(r.reward)}`,
    `advantage ${signed}${number(r.advantage)}`,
    `${number(r.len)} tokens`,
  ];
  const long = r.text.length > 1500; // scrolls: the keyboard must reach it
  return el(
    "div.response",
    { "data-reason": r.reason },
    meta(verdict, ...facts, ...(r.truncated ? ["cut off"] : [])),
    el("pre", { dir: "auto", tabindex: long ? 0 : null }, marked(r.text, needle)),
  );
}

function groupNode(step, group, responses, needle) {
  const shown = `${responses.length} of ${group.responses.length} responses`;
  return el(
    "article.group",
    el(
      "div.prompt",
      meta(`step ${step}`, `problem ${group.problem}`, shown),
      el("pre", { dir: "auto" }, marked(group.prompt, needle)),
    ),
    el(
      "div.responses",
      responses.map((r) => responseNode(r, needle)),
    ),
  );
}

function rolloutBrowser(data) {
  let runs = data.runs,
    token = 0;
  const run = el("select"),
    step = el("select"),
    verdict = el("select");
  const search = el("input", { type: "search", placeholder: "in prompts and responses" });
  const earlier = el("button", { type: "button", "aria-label": "earlier step" }, "\u2190");
  const later = el("button", { type: "button", "aria-label": "later step" }, "\u2192");
  const more = el("button", { type: "button" }, "Show more");
  const status = el("p.small", { role: "status" }),
    results = el("div.results");
  const steps = () => runs[Number(run.value)]?.steps ?? [];
  const chosenSteps = () =>
    steps().filter((s) => step.value === "all" || String(s.step) === step.value);
  const place = () => steps().findIndex((s) => String(s.step) === step.value);

  function fill(select, options, wanted) {
    select.replaceChildren(...options.map(([value, label]) => el("option", { value }, label)));
    select.value = options.some(([value]) => value === wanted) ? wanted : (options[0]?.[0] ?? "");
  }
  function fillRuns() {
    const options = runs.map((r, i) => [String(i), r.name]);
    fill(run, options, run.value);
  }
  function fillSteps(wanted) {
    const options = steps().map((s) => [String(s.step), `step ${s.step}`]);
    fill(step, [["all", "all steps"], ...options], wanted ?? options.at(-1)?.[0] ?? "all");
  }
  function fillVerdicts() {
    const counts = new Map();
    for (const s of chosenSteps())
      for (const [reason, n] of Object.entries(s.reasons))
        counts.set(reason, (counts.get(reason) ?? 0) + n);
    const ordered = [...counts].sort((a, b) => b[1] - a[1]);
    const total = ordered.reduce((sum, [, n]) => sum + n, 0);
    const options = ordered.map(([name, n]) => [name, `${name} (${number(n)})`]);
    fill(verdict, [["all", `all verdicts (${number(total)})`], ...options], verdict.value);
  }

  // Yields the groups that the filters let through, reading one step after the other.
  async function* matches() {
    const needle = search.value.trim().toLowerCase(),
      wanted = verdict.value;
    for (const s of chosenSteps()) {
      if (wanted !== "all" && !s.reasons[wanted]) continue;
      for (const group of await stepGroups(Number(run.value), s.step)) {
        const inPrompt = group.prompt.toLowerCase().includes(needle);
        const kept = group.responses.filter(
          (r) =>
            (wanted === "all" || r.reason === wanted) &&
            (inPrompt || r.text.toLowerCase().includes(needle)),
        );
        if (kept.length) yield groupNode(s.step, group, kept, needle);
      }
    }
  }
  let source = null;
  async function showMore() {
    const mine = token;
    status.textContent = "reading ...";
    try {
      await addPage(mine, source);
    } catch (error) {
      if (mine === token) status.textContent = `The rollouts could not be read (${error.message}).`;
    }
  }
  async function addPage(mine, here) {
    let added = 0,
      end = false;
    while (added < PER_PAGE) {
      const { value, done } = await here.next();
      if (mine !== token) return;
      if ((end = done)) break;
      results.append(value);
      added++;
    }
    more.hidden = end;
    const count = results.children.length,
      shown = results.querySelectorAll(".response").length;
    status.textContent = count
      ? `${shown} responses to ${count} prompts shown${end ? "" : "; there may be more"}`
      : "No rollout matches these filters.";
  }
  function refresh() {
    token++;
    const index = place();
    earlier.disabled = index <= 0;
    later.disabled = index < 0 || index === steps().length - 1;
    results.replaceChildren();
    source = matches();
    return showMore();
  }
  function move(by) {
    step.value = String(steps()[place() + by].step);
    fillVerdicts();
    refresh();
  }
  run.addEventListener("change", () => (fillSteps(), fillVerdicts(), refresh()));
  step.addEventListener("change", () => (fillVerdicts(), refresh()));
  verdict.addEventListener("change", refresh);
  let typing = 0;
  search.addEventListener(
    "input",
    () => (clearTimeout(typing), (typing = setTimeout(refresh, 200))),
  );
  earlier.addEventListener("click", () => move(-1));
  later.addEventListener("click", () => move(1));
  more.addEventListener("click", showMore);
  fillRuns();
  fillSteps();
  fillVerdicts();
  refresh();
  const node = el(
    "div.panel.browser",
    el(
      "div.filters",
      { role: "search", "aria-label": "Filter rollouts" },
      runs.length > 1 ? el("label", "Run", run) : null,
      el("div.step", el("label", "Step", step), earlier, later),
      el("label", "Verdict", verdict),
      el("label.wide", "Text", search),
    ),
    status,
    results,
    more,
  );
  // The live page hands over a new index: the filters stay, and what is on the screen does too.
  node.update = (next) => {
    runs = next.runs;
    chunks.clear(); // a step may have been read while it was being written
    const [oldStep, oldVerdict] = [step.value, verdict.value];
    fillRuns();
    fillSteps(oldStep);
    verdict.value = oldVerdict;
    fillVerdicts();
    later.disabled = place() < 0 || place() === steps().length - 1;
  };
  return node;
}
