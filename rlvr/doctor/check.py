"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """A finding. remedy: what to do, unless status is "ok"; "skip" is what cannot be looked at
    here."""

    name: str
    status: Literal["ok", "warn", "fail", "skip"]
    found: str
    remedy: str = ""
