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
    parts.push(text.slice(from, at), el("mark", {}, text.slice(at, at + needle.length)));
    from = at + needle.length;
  }
  return [...parts, text.slice(from)];
}

function responseNode(r, needle) {
  const signed = (v) => (typeof v === "number" ? (v > 0 ? "+" : "") + number(v) : "-");
  return el(
    "div",
    { class: "response", "data-reason": r.reason },
    el(
      "div",
      { class: "meta" },
      el(
        "span",
        { class: `verdict ${r.reason === "correct" ? "right" : "other"}` },
        (r.reason === "correct" ? "\u2713 " : "\u2717 ") + r.reason,
      ),
      el("span", {}, `reward ${number(r.reward)}`),
      el("span", {}, `advantage ${signed(r.advantage)}`),
      el("span", {}, `${number(r.len)} tokens`),
      r.truncated ? el("span", {}, "cut off") : null,
    ),
    el("pre", { dir: "auto", tabindex: r.text.length > 1500 ? 0 : null }, marked(r.text, needle)),
  );
}

function groupNode(step, group, responses, needle) {
  return el(
    "article",
    { class: "group" },
    el(
      "div",
      { class: "prompt" },
      el(
        "div",
        { class: "meta" },
        el("span", {}, `step ${step}`),
        el("span", {}, `problem ${group.problem}`),
        el("span", {}, `${responses.length} of ${group.responses.length} responses`),
      ),
      el("pre", { dir: "auto" }, marked(group.prompt, needle)),
    ),
    el(
      "div",
      { class: "responses" },
      responses.map((r) => responseNode(r, needle)),
    ),
  );
}

function option(value, label) {
  return el("option", { value }, label);
}

function rolloutBrowser(data) {
  let runs = data.runs,
    token = 0;
  const run = el("select", {}),
    step = el("select", {}),
    verdict = el("select", {});
  const search = el("input", { type: "search", placeholder: "in prompts and responses" });
  const earlier = el("button", { type: "button", "aria-label": "earlier step" }, "\u2190");
  const later = el("button", { type: "button", "aria-label": "later step" }, "\u2192");
  const more = el("button", { type: "button" }, "Show more");
  const status = el("p", { class: "small", role: "status" }),
    results = el("div", { class: "results" });
  const steps = () => runs[Number(run.value)]?.steps ?? [];

  function fill(select, options, wanted) {
    select.replaceChildren(...options.map(([value, label]) => option(value, label)));
    select.value = options.some(([value]) => value === wanted) ? wanted : (options[0]?.[0] ?? "");
  }
  function fillRuns() {
    fill(
      run,
      runs.map((r, i) => [String(i), r.name]),
      run.value,
    );
  }
  function fillSteps(wanted) {
    const last = steps().at(-1);
    fill(
      step,
      [["all", "all steps"], ...steps().map((s) => [String(s.step), `step ${s.step}`])],
      wanted ?? String(last?.step ?? "all"),
    );
  }
  function fillVerdicts() {
    const counts = new Map();
    for (const s of steps().filter((s) => step.value === "all" || String(s.step) === step.value))
      for (const [reason, n] of Object.entries(s.reasons))
        counts.set(reason, (counts.get(reason) ?? 0) + n);
    const ordered = [...counts].sort((a, b) => b[1] - a[1]);
    const total = ordered.reduce((sum, [, n]) => sum + n, 0);
    fill(
      verdict,
      [
        ["all", `all verdicts (${number(total)})`],
        ...ordered.map(([name, n]) => [name, `${name} (${number(n)})`]),
      ],
      verdict.value,
    );
  }

  // Yields the groups that the filters let through, reading one step after the other.
  async function* matches() {
    const needle = search.value.trim().toLowerCase(),
      wanted = verdict.value;
    const chosen = steps().filter((s) => step.value === "all" || String(s.step) === step.value);
    for (const s of chosen) {
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
    const index = steps().findIndex((s) => String(s.step) === step.value);
    earlier.disabled = index <= 0;
    later.disabled = index < 0 || index === steps().length - 1;
    results.replaceChildren();
    source = matches();
    return showMore();
  }
  function move(by) {
    const index = steps().findIndex((s) => String(s.step) === step.value);
    step.value = String(steps()[index + by].step);
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
  const label = (text, control, wide) =>
    el("label", { class: wide ? "wide" : null }, text, control);
  const node = el(
    "div",
    { class: "panel browser" },
    el(
      "div",
      { class: "filters", role: "search", "aria-label": "Filter rollouts" },
      runs.length > 1 ? label("Run", run) : null,
      el("div", { class: "step" }, label("Step", step), earlier, later),
      label("Verdict", verdict),
      label("Text", search, true),
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
    const index = steps().findIndex((s) => String(s.step) === step.value);
    later.disabled = index < 0 || index === steps().length - 1;
  };
  return node;
}
