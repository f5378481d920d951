"""The pages of docs/ link to what is there, and make a site."""

from __future__ import annotations

import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
MKDOCS = ROOT / ".venv-docs/bin/mkdocs"


def anchors(page: Path) -> set[str]:
    """Of every heading, as GitHub and mkdocs make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\s-]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page):
    wrong = []
    for target, _, anchor in re.findall(r"\]\(([^)#\s]*)(#([^)\s]*))?\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(f"{target}#{anchor}")
    assert wrong == []


def test_the_site_has_the_pages_of_the_index_in_its_order():
    def names(entries: list) -> list[str]:
        parts = [e if isinstance(e, list) else [e] for d in entries for e in named(d)]
        return [name for part in parts for name in part]

    def named(entry: str | dict) -> list:
        return [entry] if isinstance(entry, str) else [*entry.values()]

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    index = (ROOT / "docs/README.md").read_text()
    assert names(nav) == ["README.md", *re.findall(r"\[([\w-]+\.md)\]", index)]


class Links(HTMLParser):
    """What a page of the site links to, and where it can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.ids = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.targets |= {found.get("href") or "", found.get("src") or ""} - {""}
        self.ids.add(found.get("id") or "")


@pytest.mark.slow
@pytest.mark.skipif(not MKDOCS.exists(), reason="make docs has not been run: no mkdocs here")
def test_the_site_is_built_without_a_warning_and_its_links_lead_somewhere(tmp_path):
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [MKDOCS, "build", "--strict", "--quiet", "--site-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    pages = {path: Links(path.read_text()) for path in tmp_path.glob("*.html")}
    assert len(pages) >= len(PAGES)
    for path, links in pages.items():
        for target in links.targets:
            name, _, anchor = target.partition("#")
            if name.startswith(("http", "mailto", "data:", "/")) or path.name == "404.html":
                continue
            file = (path.parent / name).resolve() if name else path
            file = file / "index.html" if file.is_dir() else file
            assert file.exists(), f"{path.name}: {target}"
            assert file not in pages or anchor in pages[file].ids, f"{path.name}: {target}"
