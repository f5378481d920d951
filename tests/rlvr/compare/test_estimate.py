"""What a comparison expects of runs that have been made."""

import json

from rlvr.compare.estimate import measured_cost
from rlvr.config.toml import dump_toml, toml_text


def test_the_cost_of_a_run_of_the_same_shape_is_taken_whichever_version_wrote_it(
    make_recipe, tmp_path
):
    recipe = make_recipe(model={"max_len": 200})
    whole = toml_text(recipe.model_dump(mode="json", exclude_none=True))
    rows = [{"step": step, "time/step_s": 3.0, "memory/peak_gib": 1.5} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "summary.json").write_text('{"seconds": 10.0}')
    (tmp_path / "manifest.json").write_text("{}")
    other = make_recipe(model={"max_len": 200}, rollout={"group_size": 4})
    for written in (whole, dump_toml(recipe)):
        (tmp_path / "config.toml").write_text(written)
        cost = measured_cost(recipe, [tmp_path])
        assert cost is not None
        assert (cost.step_s, cost.extra_s, cost.peak_gib) == (3.0, 4.0, 1.5)
        assert measured_cost(other, [tmp_path]) is None
    (tmp_path / "config.toml").write_text("[model]\nno_longer = 1\n")
    assert measured_cost(recipe, [tmp_path]) is None
