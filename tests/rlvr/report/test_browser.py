"""The page in a real browser: it draws, filters, fits the window, and runs nothing foreign."""

import json
import threading

import pytest

from rlvr.report.live import make_server
from tests.rlvr.report.folders import (
    healthy_rows,
    write_analysis,
    write_comparison,
    write_rollouts,
    write_run,
)

SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
COUNT = "document.querySelectorAll({!r}).length"
UNDRAWN = "[...document.querySelectorAll('.plot')].filter(p => !p.querySelector('path')).length"
BROKEN = (
    "/NaN|undefined|Infinity|\\[object/.test(document.body.innerText"
    " + [...document.querySelectorAll('svg')].map(s => s.outerHTML).join(''))"
)


def check_page(browser, url, *, charts):
    """The page at `url` is whole on a wide and a narrow window, light and dark."""
    for width, dark in ((1440, False), (390, True)):
        browser.open(url, width, dark=dark)
        assert browser.log == []
        assert browser.requests == [url]
        assert browser.run(COUNT.format(".plot")) >= charts
        assert browser.run(UNDRAWN) == 0
        assert browser.run(SIDEWAYS) <= 0
        assert not browser.run(BROKEN)


def test_a_run_a_comparison_and_an_analysis_draw_everything(tmp_path, page_of, chromium):
    run = page_of(write_run(tmp_path / "run")).as_uri()
    comparison = page_of(write_comparison(tmp_path / "c", num_seeds=2, num_steps=20)).as_uri()
    analysis = page_of(write_analysis(tmp_path / "a")).as_uri()
    for url, charts in ((run, 17), (comparison, 18), (analysis, 7)):
        check_page(chromium, url, charts=charts)
    chromium.open(comparison)
    chromium.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    chromium.wait(f"{COUNT.format('table')} > 20")
    assert chromium.run(SIDEWAYS) <= 0
    assert not chromium.run(BROKEN)
    assert chromium.log == []


def test_filters_by_step_verdict_and_text(tmp_path, page_of, chromium):
    folder = write_run(tmp_path / "run", steps_with_rollouts=40)
    chromium.open(page_of(folder).as_uri())
    browse = "document.querySelector('.browser')"
    status = f"{browse}.querySelector('[role=status]').textContent"
    chromium.wait(f"{status} === '16 responses to 2 prompts shown'")
    assert chromium.run(f"{browse}.querySelectorAll('select')[0].value") == "100"

    def choose(number, value):
        chromium.run(
            f"(s => {{ s.value = {value!r}; s.dispatchEvent(new Event('change')) }})"
            f"({browse}.querySelectorAll('select')[{number}])"
        )

    choose(1, "correct")
    chromium.wait(f"{status}.startsWith('6 responses')")
    reasons = "[...new Set([...document.querySelectorAll('.response')].map(r => r.dataset.reason))]"
    assert chromium.run(reasons) == ["correct"]
    choose(0, "all")
    chromium.wait(f"{status}.includes('to 24 prompts shown; there may be more')")
    chromium.run(f"[...{browse}.querySelectorAll('button')].at(-1).click()")
    chromium.wait(f"{status}.includes('to 48 prompts')")

    def search(words):
        chromium.run(
            f"(i => {{ i.value = {words!r}; i.dispatchEvent(new Event('input')) }})"
            f"({browse}.querySelector('input'))"
        )

    search("Problem 560:")
    chromium.wait(f"{status}.includes('to 1 prompts shown')")
    assert chromium.run("document.querySelector('mark').textContent") == "Problem 560:"
    search("no such words")
    chromium.wait(f"{status} === 'No rollout matches these filters.'")
    assert chromium.log == []


HOSTILE = [
    "<script>window.ran = 1</script>",
    "</script><script>window.ran = 2</script>",
    "<img src=x onerror='window.ran = 3'><svg onload='window.ran = 4'>",
    "--><!--<script>window.ran = 5</script>]]>",
    "\"'><iframe srcdoc='<script>parent.ran = 6</script>'></iframe>",
    "javascript:window.ran=7 ${window.ran=8} {{constructor.constructor('window.ran=9')()}}",
    r"$\frac{1}{2}$ \href{javascript:window.ran=10}{x} \boxed{7}",
    "\u202eright to left\u2028line\u2029\x00\ud83d\ufffe",
    "x" * 100_000,
    "\n" * 3000,
    "<b>" * 5000,
    "__proto__",
    "constructor",
]


def test_hostile_text_runs_nothing_and_holds_the_layout(tmp_path, page_of, chromium):
    folder = write_run(
        tmp_path / "<img src=x onerror=alert(1)>",
        data={"path": HOSTILE[0], "system_prompt": HOSTILE[1] + HOSTILE[4]},
    )
    rows = [
        {"problem_id": text[:200], "prompt": text, "response": text[::-1] + text, "reward": 1.0}
        | {"advantage": 0.5, "reason": text[:60], "response_len": 9, "truncated": True}
        for text in HOSTILE
    ]
    write_rollouts(folder, 100, rows)
    manifest = {"method": HOSTILE[1], "versions": {HOSTILE[2]: HOSTILE[0]}, "modules": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    url = page_of(folder).as_uri()
    for width in (1440, 390):
        chromium.open(url, width)
        chromium.wait(f"{COUNT.format('.response')} === {len(HOSTILE)}")
        chromium.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        chromium.run("new Promise(done => setTimeout(done, 100))")
        assert chromium.run("window.ran === undefined")
        assert chromium.run("document.querySelectorAll('img, iframe, b, main script').length") == 0
        assert chromium.run("document.querySelectorAll('body script:not([type])').length") == 1
        assert chromium.run(SIDEWAYS) <= 0
        assert chromium.log == []
    options = "[...document.querySelectorAll('.browser select')[1].options].map(o => o.label)"
    assert {"__proto__ (1)", "constructor (1)"} <= set(chromium.run(options))
    shown = chromium.run("[...document.querySelectorAll('.prompt pre')].map(p => p.textContent)")
    assert shown[:7] == HOSTILE[:7]
    assert "80,000 of 100,000 characters left out" in shown[8]


def test_a_script_that_did_get_into_the_page_would_still_be_stopped(tmp_path, page_of, chromium):
    page = page_of(write_run(tmp_path / "run", steps_with_rollouts=0))
    text = page.read_text().replace("<noscript>", "<script>window.ran = 1</script><noscript>")
    page.write_text(text)
    chromium.open(page.as_uri())
    assert chromium.run("window.ran === undefined")
    assert any("Content Security Policy" in line for line in chromium.log)


def test_charts_are_read_by_keyboard_and_have_names(tmp_path, page_of, chromium):
    chromium.open(page_of(write_run(tmp_path / "run")).as_uri())
    unnamed = (
        "[...document.querySelectorAll('[tabindex=\"0\"]:not(pre), select, input, button')].filter("
        "e => !e.ariaLabel && !e.textContent.trim() && !e.labels?.length).length"
    )
    assert chromium.run(unnamed) == 0
    chromium.run("document.querySelector('.plot').focus()")
    chromium.press("Home")
    chromium.press("ArrowRight")
    text = chromium.run("document.activeElement.getAttribute('aria-valuetext')")
    assert text.startswith("step 2: each step ")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert chromium.run(outline) == "solid"
    for key in ("Tab",):
        chromium.press(key)
    assert chromium.run("document.activeElement.tagName") == "SUMMARY"


@pytest.fixture
def live_run(tmp_path):
    folder = write_run(tmp_path / "run", rows=healthy_rows(5), steps_with_rollouts=2)
    server = make_server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_live_page_follows_the_run(live_run, chromium):
    folder, url = live_run
    chromium.open(url)
    chromium.wait(f"{COUNT.format('.response')} === 16")
    chromium.run("document.querySelector('input').value = 'kept'")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(healthy_rows(6)[5]) + "\n")
    chromium.wait("document.querySelector('.readout').textContent.startsWith('step 6')")
    assert chromium.run("document.querySelector('input').value") == "kept"
    assert chromium.log == []
    assert all(request.startswith(url) for request in chromium.requests)


def test_300_steps_of_128_rollouts_open_with_few_elements_and_in_20_mib(
    tmp_path, page_of, chromium
):
    folder = write_run(
        tmp_path / "run",
        rows=healthy_rows(300),
        steps_with_rollouts=300,
        rollouts_per_step=128,
        num_words=40,
    )
    page = page_of(folder)
    assert page.stat().st_size < 20 * 2**20
    chromium.open(page.as_uri())
    chromium.wait(f"{COUNT.format('.response')} === 128")
    assert (
        chromium.run(COUNT.format("*")) < 10_000
    )  # all rollouts at once would be 38,400 responses
    assert chromium.run(COUNT.format("select option")) >= 301
    assert chromium.log == []
