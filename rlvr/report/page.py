"""The page: its data, and the one file that shows them from disk or from the live server."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import time
from importlib import resources
from pathlib import Path
from typing import Any

from rlvr.report.folder import Source, read_source
from rlvr.report.rollouts import StepIndex, embed
from rlvr.report.sections.analysis import analysis_sections
from rlvr.report.sections.comparison import closing_section, comparison_sections
from rlvr.report.sections.learning_rates import lr_section
from rlvr.report.sections.run import headline, run_sections, settings_section

SCRIPTS = (
    "dom.js",
    "axes.js",
    "chart.js",
    "forest.js",
    "timeline.js",
    "blocks.js",
    "rollouts.js",
    "main.js",
)
"""In the order in which they stand in the page: the later use the earlier."""


def page_data(source: Source, index: list[list[StepIndex]], left_out: int = 0) -> dict[str, Any]:
    """Everything on the page but the rollouts themselves, JSON-ready.

    index: of every run's rollouts, in the order of source.runs. left_out: steps without rollouts.
    """
    sections: list[dict[str, Any] | None] = []
    title = source.folder.resolve().name
    subtitle = ""
    single = next(iter(source.runs.values())) if len(source.runs) == 1 else None
    if source.comparison is not None:
        title = str(source.comparison.get("name") or title)
        subtitle = f"Comparison of {len(source.comparison.get('methods', []))} methods"
        sections += comparison_sections(source)
    elif single is not None:
        subtitle = headline(single)
        sections += run_sections(single)
    sections.append(lr_section(source.lr_finds))
    sections += analysis_sections(source.analyses)
    if any(index):
        sections.append(_rollout_section(source, index, left_out))
    if source.comparison is not None:
        sections.append(closing_section(source))
    elif single is not None:
        sections.append(settings_section(single))
    return {
        "title": title,
        "subtitle": subtitle,
        "written": time.strftime("%Y-%m-%d %H:%M:%S"),
        "sections": [section for section in sections if section is not None],
    }


def _rollout_section(source: Source, index: list[list[StepIndex]], left_out: int) -> dict[str, Any]:
    note = f" Of {left_out} further steps, rollouts were left out to keep the file small."
    return {
        "id": "rollouts",
        "title": "Rollouts",
        "intro": "The responses that were logged (track.rollouts_per_step), with the verifier's"
        " verdict, the reward and the advantage." + (note if left_out else ""),
        "blocks": [
            {
                "type": "rollouts",
                "runs": [
                    {"name": name, "steps": [entry.to_json() for entry in entries]}
                    for name, entries in zip(source.runs, index, strict=True)
                ],
            }
        ],
    }


def page_of(folder: Path) -> str:
    """The report about the folder of a run, as one HTML file."""
    return write_page(read_source(folder))


def write_page(source: Source) -> str:
    """The report as one HTML file that needs no network."""
    packed, index, left_out = embed(source.rollout_files())
    chunks = {f"{r}-{step}": text for r, steps in enumerate(packed) for step, text in steps.items()}
    return render(page_data(source, index, left_out), chunks, live=False)


def render(data: dict[str, Any], chunks: dict[str, str], *, live: bool) -> str:
    """The HTML around the data. Scripts and styles run by their hash alone: nothing else may."""
    style = _asset("report.css")
    script = "\n".join(map(_asset, SCRIPTS))
    return _asset("page.html") % {
        "csp": content_policy(live=live),
        "title": html.escape(data["title"]),
        "live": "yes" if live else "no",
        "style": style,
        "data": safe_json(data),
        "chunks": "\n".join(
            # a type that no browser runs: the page's own script unpacks the one that is opened
            f'<script type="application/octet-stream" id="rollouts-{key}">{text}</script>'
            for key, text in chunks.items()
        ),
        "script": script,
    }


def safe_json(data: object) -> str:
    """JSON that cannot end or open a script tag or a comment, wherever it stands in HTML."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # "</script>" and "<!--" are read before JSON is; U+2028 and U+2029 end lines in old JavaScript
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be written


def content_policy(*, live: bool) -> str:
    """The Content-Security-Policy: our style, our script, no network but the live server's own."""
    # a browser hashes the exact text between the tags
    style = _hash(_asset("report.css"))
    script = _hash("\n".join(map(_asset, SCRIPTS)))
    connect = " connect-src 'self';" if live else ""
    return (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; img-src data:;{connect}"
        " base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _asset(name: str) -> str:
    folder = resources.files("rlvr.report") / "assets"
    return (folder / name).read_text(encoding="utf-8").strip()
