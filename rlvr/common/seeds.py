"""Seeds of single random draws."""

import hashlib


def sample_seed(run_seed: int, *parts: int | str) -> int:
    """A 62-bit seed for one draw, independent of what else is drawn with it."""
    text = "/".join(map(str, (run_seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2
