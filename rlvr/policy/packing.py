"""Rows of one forward pass laid end to end in one line: no padding, and every prompt once.

Shapes: R rows; U tokens of the line; T response tokens; S positions that attention runs over, where
every row has its prompt again and, in buckets, padding up to the bucket's longest row.

The responses of a group have one prompt. Its tokens pass through the layers once, and each response
attends to them: the same values and gradients as R rows of their own, for fewer tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, arange

# with log-normal lengths 0.92 leaves less than 5% of padding (tests/rlvr/policy/test_packing.py)
MIN_FILL = 0.92
"""The shortest row of a bucket is at least this fraction of the longest."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One prompt and one response of at least one token, as token ids."""

    prompt_ids: list[int]
    response_ids: list[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """Where everything lies. A row's last token predicts nothing and is left out.

    ids_U, positions_U: the line's token ids and their positions in their rows. predicts_T: the
    place in U that predicts each response token; targets_T: that token. take_S: the place in U of
    each position of attention; home_U: the position of attention that computes each place. shapes:
    (rows, length) of attention's buckets, one after another in S. ends_R: for buckets of one row
    without padding, [R + 1] offsets of the rows in S, int32; else None.
    """

    ids_U: Tensor
    positions_U: Tensor
    predicts_T: Tensor
    targets_T: Tensor
    take_S: Tensor
    home_U: Tensor
    shapes: tuple[tuple[int, int], ...]
    ends_R: Tensor | None


def pack(rows: Sequence[TokenRow], device: torch.device, bucketed: bool) -> Packing:
    """The rows end to end, on the device. bucketed: attention takes padded buckets of rows."""
    prompt_starts: dict[tuple[int, ...], int] = {}
    ids: list[int] = []
    positions, sequences, predicts = [], [], []
    for row in rows:
        prompt_len, response_len = len(row.prompt_ids), len(row.response_ids)
        assert min(prompt_len, response_len) > 0, (prompt_len, response_len)
        start = prompt_starts.setdefault(tuple(row.prompt_ids), len(ids))
        if start == len(ids):
            ids += row.prompt_ids
            positions.append(arange(prompt_len))
        end = len(ids) + response_len - 1
        sequence = torch.cat([arange(start, start + prompt_len), arange(len(ids), end)])
        # the last token predicts nothing
        ids += row.response_ids[:-1]
        positions.append(arange(prompt_len, len(sequence)))
        sequences.append(sequence)
        # the prompt's last token predicts the response's first
        predicts.append(sequence[prompt_len - 1 :])
    lengths = [len(sequence) for sequence in sequences]
    order = buckets(lengths) if bucketed else [[i] for i in range(len(rows))]
    take_S, home_U, shapes = _lay_out(sequences, order, len(ids))
    # the variable-length kernel takes its offsets as int32
    ends_R = None if bucketed else torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return Packing(
        to_device(torch.tensor(ids), device),
        to_device(torch.cat(positions), device),
        to_device(torch.cat(predicts), device),
        to_device(torch.tensor([token for row in rows for token in row.response_ids]), device),
        to_device(take_S, device),
        to_device(home_U, device),
        shapes,
        None if ends_R is None else to_device(ends_R, device),
    )


def _lay_out(
    sequences: Sequence[Tensor], order: Sequence[Sequence[int]], num_tokens: int
) -> tuple[Tensor, Tensor, tuple[tuple[int, int], ...]]:
    """(take_S, home_U, shapes) of buckets of sequences of places in U."""
    takes, shapes, offset = [], [], 0
    home_U = torch.empty(num_tokens, dtype=torch.long)
    for bucket in order:
        longest = max(len(sequences[i]) for i in bucket)
        # 0: padding may read any place, as nobody reads what comes of it
        take = torch.zeros(len(bucket), longest, dtype=torch.long)
        for slot, i in enumerate(bucket):
            take[slot, : len(sequences[i])] = sequences[i]
            # a shared prompt is computed in each of its rows, and taken from the last
            home_U[sequences[i]] = arange(offset, offset + len(sequences[i]))
            offset += longest
        takes.append(take.flatten())
        shapes.append((len(bucket), longest))
    return torch.cat(takes), home_U, tuple(shapes)


def buckets(lengths: Sequence[int], max_positions: int | None = None) -> list[list[int]]:
    """Indices of rows of nearly the same length together, the longest first.

    max_positions: a bucket has at most that many with its padding, or one row.
    """
    parts: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[parts[-1][0]] if parts else 0
        room = max_positions is None or (parts and (len(parts[-1]) + 1) * longest <= max_positions)
        if parts and room and lengths[i] >= MIN_FILL * longest:
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts


def lines(rows: Sequence[TokenRow], max_tokens: int) -> list[list[int]]:
    """Indices of rows, in order, for lines of at most `max_tokens` tokens, or one row.

    A prompt counts once per line.
    """
    parts: list[list[int]] = []
    num_tokens, prompts = 0, set[tuple[int, ...]]()
    for i, row in enumerate(rows):
        prompt = tuple(row.prompt_ids)
        more = len(row.response_ids) + (0 if prompt in prompts else len(prompt))
        if not parts or num_tokens + more > max_tokens:
            parts.append([])
            # a new line computes the prompt again
            num_tokens, prompts, more = 0, set(), len(row)
        parts[-1].append(i)
        num_tokens += more
        prompts.add(prompt)
    return parts


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device, by a copy that does not make the host wait for the GPU."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
