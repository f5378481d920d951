"""Installs carried wheels: `python -m tests.benchmarks.first_gpu.wheels FOLDER TARGET`.

Wheels may be cut into NAME.whl.part0, .part1, ...: they are joined first. Nothing is downloaded and
no dependency is looked for: the folder has all that is missing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

PART = re.compile(r"(.+\.whl)\.part(\d+)")


def join(folder: Path, joined: Path) -> list[Path]:
    """The wheels of a folder; those in parts are put together in `joined`."""
    parts: dict[str, dict[int, Path]] = {}
    for path in folder.iterdir():
        if found := PART.fullmatch(path.name):
            parts.setdefault(found[1], {})[int(found[2])] = path
    for name, numbered in parts.items():
        missing = set(range(max(numbered) + 1)) - numbered.keys()
        if missing:
            raise SystemExit(f"{folder}: {name} lacks its part {min(missing)}")
        with (joined / name).open("wb") as whole:
            for number in sorted(numbered):
                whole.write(numbered[number].read_bytes())
    return sorted([*folder.glob("*.whl"), *joined.glob("*.whl")], key=lambda path: path.name)


def main(folder: str, target: str) -> None:
    """Installs every wheel of the folder into the target folder."""
    with tempfile.TemporaryDirectory() as joined:
        wheels = join(Path(folder), Path(joined))
        if not wheels:
            raise SystemExit(f"{folder}: has no wheels")
        words = "-m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade"
        command = [sys.executable, *words.split(), "--target", target, *map(str, wheels)]
        raise SystemExit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main(*sys.argv[1:])
