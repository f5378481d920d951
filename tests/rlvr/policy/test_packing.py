"""Rows end to end: every row once, within the budget, prompts once, little padding."""

import random

import pytest
import torch

from rlvr.policy.packing import TokenRow, buckets, lines, pack

CPU = torch.device("cpu")


def group(prompt, lengths):
    return [TokenRow(prompt, [50 + i] * n) for i, n in enumerate(lengths)]


ROWS = [*group([1, 2, 3], [4, 1, 9]), *group([4, 5], [2, 7]), *group([1, 2, 3], [5])]


@pytest.mark.parametrize("bucketed", [True, False])
def test_every_row_is_where_attention_looks_for_it(bucketed):
    packing = pack(ROWS, CPU, bucketed)
    assert len(packing.ids_U) == 5 + sum(len(row.response_ids) - 1 for row in ROWS)
    seen, start = [], 0
    for num_rows, length in packing.shapes:
        for _ in range(num_rows):
            places = packing.take_S[start : start + length]
            seen.append((packing.ids_U[places].tolist(), packing.positions_U[places].tolist()))
            start += length
    assert start == len(packing.take_S)
    for row in ROWS:
        ids = row.prompt_ids + row.response_ids[:-1]
        assert any(
            got[: len(ids)] == ids and positions[: len(ids)] == list(range(len(ids)))
            for got, positions in seen
        )
    assert torch.equal(packing.take_S[packing.home_U], torch.arange(len(packing.ids_U)))
    assert packing.targets_T.tolist() == [token for row in ROWS for token in row.response_ids]
    assert len(packing.predicts_T) == len(packing.targets_T)
    if not bucketed:
        lengths = [len(row) - 1 for row in ROWS]
        assert packing.ends_R.diff().tolist() == lengths
        assert len(packing.take_S) == sum(lengths)


def test_lines_hold_every_row_once_and_count_a_prompt_once():
    for max_tokens in (1, 20, 24, 1000):
        parts = lines(ROWS, max_tokens)
        assert [i for part in parts for i in part] == list(range(len(ROWS)))
        for part in parts:
            prompts = {tuple(ROWS[i].prompt_ids) for i in part}
            num_tokens = sum(map(len, prompts)) + sum(len(ROWS[i].response_ids) for i in part)
            assert len(part) == 1 or num_tokens <= max_tokens
    assert lines(ROWS, 5 + 28) == [list(range(6))]


def test_buckets_hold_every_row_once_and_stay_within_the_budget():
    lengths = [3, 50, 7, 7, 30, 1, 29]
    parts = buckets(lengths, 60)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    assert all(len(part) * max(lengths[i] for i in part) <= 60 for part in parts)
    assert buckets([100], 60) == [[0]]


@pytest.mark.parametrize("max_positions", [None, 16384])
@pytest.mark.parametrize("num_rows", [32, 128, 512])
def test_long_tailed_lengths_leave_at_most_a_twentieth_of_padding(num_rows, max_positions):
    draw = random.Random(num_rows)
    lengths = [1 + int(400 * draw.lognormvariate(0, 1)) for _ in range(num_rows)]
    parts = buckets(lengths, max_positions)
    positions = sum(len(part) * lengths[part[0]] for part in parts)
    assert 1 - sum(lengths) / positions <= 0.05
    assert len(parts) < 80 if max_positions is None else len(parts) < 200
