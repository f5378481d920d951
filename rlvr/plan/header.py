"""What the first lines of a recipe say of the hardware it is for, and of what a plan gave there.

    # hardware: 1xH100
    # plan: 69 of 79 GiB, 200 sequences at a time, 104 to 165 hours; lengths 8000,1

hardware: as --gpus takes it, or "cpu"; a comparison's is that of all runs that go on at a time.
lengths: as --lengths takes them. A test holds the numbers to `rlvr plan`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_HARDWARE = re.compile(r"^# hardware: (\S+)$", re.MULTILINE)
_PLAN = re.compile(
    r"^# plan: (?P<gib>\d+) of \d+ GiB(?:, (?P<sequences>\d+) sequences at a time)?"
    r"(?:, (?P<low>\d+) to (?P<high>\d+) hours(?: a run)?; lengths (?P<lengths>[\d.]+,[\d.]+))?$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Header:
    """hardware: None where the recipe names none. lengths: "MEDIAN,SIGMA" of the plan's responses.
    numbers: of the plan line, by name; empty without one."""

    hardware: str | None
    lengths: str | None
    numbers: dict[str, int]


def read_header(path: Path) -> Header:
    """The header of a recipe."""
    text = path.read_text()
    hardware, plan = _HARDWARE.search(text), _PLAN.search(text)
    given = plan.groupdict() if plan else {}
    lengths = given.pop("lengths", None)
    numbers = {name: int(value) for name, value in given.items() if value is not None}
    return Header(hardware and hardware[1], lengths, numbers)
