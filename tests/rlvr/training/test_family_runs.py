"""The table of docs/models.md is what real runs show."""

import re
from pathlib import Path

import pytest

from rlvr.config.train import AdapterConfig, ModelConfig
from rlvr.policy.policy import load_policy
from tests.rlvr.families import FAMILIES
from tests.rlvr.family_runs import HEAD, TABLE, measure

TEXT = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
LINES = TEXT.partition(HEAD)[2].partition("\n\n")[0].strip().splitlines()
ROWS = {re.findall(r"`(\w+)`", line)[0]: line for line in LINES}


@pytest.mark.parametrize("family", TABLE)
def test_the_table_says_whose_rows_are_packed(folder_of, family):
    adapter = AdapterConfig(method="lora", rank=4, target_modules=FAMILIES[family][2])
    path = str(folder_of(family))
    model = ModelConfig(path=path, dtype="float32", max_len=64)
    packed = load_policy(model, adapter, path, 0, keep_reference=False).packs_rows
    assert list(ROWS) == list(TABLE)
    assert ROWS[family].split(" | ")[1:3] == [TABLE[family], "yes" if packed else "no"]


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("family", TABLE)
def test_every_row_of_the_table_is_what_its_runs_show(tmp_path, family):
    assert measure(family, tmp_path).row(family) == ROWS[family]
