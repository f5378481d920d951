"""Fingerprints of tensors, equal where the numbers are, to compare weights across processes.

64 bits of integer arithmetic, so that every device and process gives the same. Source: a bilinear
form sum_rc u_r v_c bits_rc mod 2^64 with pseudo-random u and v: two different matrices agree with a
probability of about 2^-64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 22
"""Elements that are widened to 64 bits at a time."""


class Piece(NamedTuple):
    """The part of a tensor that one process has, seen as a matrix (a vector is one column).

    rows, columns: [first, last + 1) in the full tensor. dtype: in which it is kept, by torch's
    name. in_order: False where the engine sorts the rows in a way of its own.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    dtype: str
    in_order: bool
    digest: int

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> Piece:
        """The piece back from JSON, which has lists for tuples."""
        rows, columns, dtype, in_order, digest = values
        return cls(tuple(rows), tuple(columns), dtype, in_order, digest)

    def is_of(self, full: Tensor) -> bool:
        """Whether this is a piece of the full tensor, rounded to the piece's type."""
        import torch

        matrix = full.reshape(len(full), -1)
        part = matrix[slice(*self.rows), slice(*self.columns)].to(getattr(torch, self.dtype))
        return digest(part, self.in_order) == self.digest


ANY = 1 << 31
"""An end of rows and columns that no tensor reaches."""
NOTHING = Piece((0, ANY), (0, ANY), "float32", True, 0)
"""Zeros, of any shape."""


def whole_piece(value: Tensor) -> Piece:
    """The piece of a process that has all of the tensor."""
    number = digest(value.reshape(len(value), -1))
    return Piece((0, ANY), (0, ANY), str(value.dtype).removeprefix("torch."), True, number)


def digest(matrix: Tensor, in_order: bool = True) -> int:
    """A signed 64-bit fingerprint of a matrix of floats [R, C].

    Zeros do not count: neither rows and columns of them at the end, with which engines pad, nor
    their sign, nor subnormal numbers, which some processors flush to zero. in_order: rows in
    another order give another fingerprint.
    """
    import torch

    if not matrix.numel():
        return 0
    num_rows, num_columns = matrix.shape
    # 1 << 40 keeps the columns' numbers apart from the rows': a transposed matrix is another one
    columns = mixed(torch.arange(1, num_columns + 1, device=matrix.device) + (1 << 40))
    step = max(1, CHUNK // num_columns)
    rows = torch.cat([(_bits(part) * columns).sum(dim=1) for part in matrix.detach().split(step)])
    if not in_order:
        return int(mixed(rows).sum())
    return int((rows * mixed(torch.arange(1, num_rows + 1, device=matrix.device))).sum())


def _bits(part: Tensor) -> Tensor:
    """The bits of each number as an integer; 0 for zeros and what is flushed to them."""
    import torch

    tiny = 0.0 if part.dtype == torch.float16 else torch.finfo(part.dtype).smallest_normal
    part = part.masked_fill((part.abs() < tiny) | (part == 0), 0.0).contiguous()
    return part.view(torch.int16 if part.element_size() == 2 else torch.int32).long()


def mixed(values: Tensor) -> Tensor:
    """Integers scattered over 64 bits; 0 stays 0. Source: the finaliser of splitmix64."""
    values = (values ^ (values >> 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    values = (values ^ (values >> 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return values ^ (values >> 31)
