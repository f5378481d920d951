"""The maps of the project name everything that is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(
    {path.parent for name in ("rlvr", "rewards", "eval") for path in (ROOT / name).rglob("*.py")}
)


def test_the_architecture_page_names_every_module_and_no_other() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    sections = dict(re.findall(r"^### `([\w/]+)/`\n(.*?)(?=^### |\Z)", page, re.M | re.S))
    named = {
        folder: sorted(re.findall(r"^\| `(\w+)` \|", text, re.M))
        for folder, text in sections.items()
    }
    assert named == {
        str(folder.relative_to(ROOT)): sorted(
            path.stem for path in folder.glob("*.py") if path.stem != "__init__"
        )
        for folder in FOLDERS
    }


def test_the_readme_names_every_folder() -> None:
    tree = re.search(r"## Where things are\n+```\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert tree is not None
    missing = [
        str(folder.relative_to(ROOT)) for folder in FOLDERS if f"{folder.name}/" not in tree[1]
    ]
    assert missing == []


def test_few_modules_stand_outside_of_a_folder_and_no_folder_is_crowded() -> None:
    assert {path.stem for path in (ROOT / "rlvr").glob("*.py")} <= {"__init__", "cli", "doctor"}
    crowded = {str(f): len([*f.glob("*.py")]) for f in FOLDERS if len([*f.glob("*.py")]) > 17}
    assert crowded == {}
