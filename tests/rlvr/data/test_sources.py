"""Several sources in one recipe, and folders of files: read as one would read each, or refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rlvr.cli import main
from rlvr.common.errors import ConfigError
from rlvr.config.toml import dump_toml, load_recipe, validate
from rlvr.config.train import DataConfig, TrainRecipe, own_functions
from rlvr.data.absolute_paths import absolute
from rlvr.data.check import read_training_rows
from rlvr.data.contamination import num_repeated, questions_of
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.data.tables import is_shards
from rlvr.doctor.recipe import is_on_hub
from rlvr.training.preflight import check

BULBS = (
    "A hall has 900 bulbs, numbered from 1 to 900, all of them lit. A child walks through it and"
    " switches off every second bulb, then returns and removes one. How many bulbs remain lit?"
)
ASKED = [{"question": f"What is {i}+1?", "gold": str(i + 1)} for i in range(4)]
TOLD = [{"problem": f"Tell {i}*2.", "answer": [str(2 * i), f"{2 * i}.0"]} for i in range(3)]
FIELDS = {"problem_field": "question", "answer_field": "gold"}


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def two(tmp_path) -> list[dict[str, Any]]:
    """[[data.source]] of two files with other fields."""
    return [
        {"path": write_rows(tmp_path / "asked.jsonl", ASKED), "weight": 0.7, **FIELDS},
        {"path": write_rows(tmp_path / "told.jsonl", TOLD), "weight": 0.3},
    ]


def config(*sources: dict[str, Any], **settings: Any) -> DataConfig:
    return DataConfig.model_validate({"source": sources, **settings})


def test_a_source_takes_from_data_what_it_leaves_out_and_nothing_for_an_empty_text():
    own = {"path": "a/x.jsonl", "prompt_template": "Q: {problem}", "limit": 5, "system_prompt": ""}
    data = config(own, {"path": "x.csv"}, system_prompt="Be brief.", answer_after="####")
    first, second = data.parts
    assert (first.prompt_template, first.limit, first.system_prompt) == ("Q: {problem}", 5, None)
    assert (second.prompt_template, second.limit) == ("{problem}", None)
    assert second.system_prompt == "Be brief."
    assert [part.answer_after for part in data.parts] == ["####", "####"]
    assert data.labels == ("x-1", "x-2")
    paths = ["a/x.jsonl", "b/x.jsonl", "x-1.jsonl", "y.jsonl"]
    several = DataConfig.model_validate({"source": [{"path": path} for path in paths]})
    assert several.labels == ("x-1", "x-2", "x-1-3", "y-4"), "no two alike"
    assert DataConfig(path="a.jsonl").parts == (DataConfig(path="a.jsonl"),)


@pytest.mark.parametrize("given", [(0.7, 0.3), (0.333, 0.333, 0.333), (0.33, 0.33, 0.34)])
def test_weights_that_add_up_to_the_digits_given_are_taken(given, recipe_tree):
    sources = [{"path": f"{i}.jsonl", "weight": weight} for i, weight in enumerate(given)]
    tree = recipe_tree() | {"data": {"source": sources}}
    weights = validate(tree, TrainRecipe).data.weights
    assert weights is not None
    assert sum(weights) == pytest.approx(1, abs=1e-12)


A, B = {"path": "a.jsonl"}, {"path": "b.jsonl"}
GENERATED = {"path": "generated:word_problems", "limit": 9}
REFUSED = [
    ({}, "data.path: missing; add it to the recipe or pass --data.path VALUE, or give several"),
    ({"source": []}, "data.path: missing"),
    ({"path": "c.jsonl", "source": [A, B]}, "move it into a table of its own there"),
    ({"source": [A | {"weight": 0.7}, B | {"weight": 0.7}]},
     "data.source.weight = 0.7, 0.7: adds up to 1.4, must add up to 1; 0.5, 0.5 does"),
    ({"source": [A | {"weight": 0.5}, B]}, "data.source.1.weight: missing, where other sources"),
    *(({"source": [A | {"weight": weight}, B | {"weight": 0.5}]},
       f"data.source.0.weight = {weight!r}: must lie in (0, 1], the weights of all")
      for weight in (-0.5, 0.0, 1.5, float("inf"), float("-inf"), float("nan"))),
    ({"source": [A, B, A]}, "data.source.2.path = 'a.jsonl': is data.source.0 too; remove one"),
    ({"source": [A, B | {"wieght": 1}]}, "unknown setting; did you mean data.source.weight?"),
    ({"source": [A, {"weight": 1.0}]}, "data.source.1.path: missing"),
    ({"source": [A, B | {"prompt_template": "x"}]}, "lacks {problem}; add it"),
    ({"source": [A | {"levels": [1]}, B]}, "data.source.0.levels = (1,): would be ignored with"),
    ({"source": [GENERATED | {"name": "x"}, B]}, "data.source.0.name = 'x': would be ignored"),
    ({"source": [A | {"difficulty_field": "d"}, B]},
     "data.source.0.difficulty_field = 'd': would be ignored with sampling.strategy = \"uniform\""),
    ({"limit": 4, "source": [A, B]}, "data.limit = 4: would be ignored without data.path"),
    ({"split": "x", "source": [A, B]}, 'data.split = "x": would be ignored without data.path'),
    ({"name": "x", "source": [A, B]}, 'data.name = "x": would be ignored without data.path'),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), REFUSED)
def test_sources_that_cannot_be_meant_are_refused_in_one_line(recipe_tree, data, message):
    with pytest.raises(ConfigError) as caught:
        validate(recipe_tree() | {"data": data}, TrainRecipe)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_problems_of_all_sources_come_with_their_own_fields_and_ids(two):
    data = load_problems(config(*two))
    assert [p.id for p in data.problems] == [f"asked/{i}" for i in range(1, 5)] + [
        f"told/{i}" for i in range(1, 4)
    ]
    assert [p.source for p in data.problems] == [0] * 4 + [1] * 3
    assert [len(p.others) for p in data.problems] == [0] * 4 + [1] * 3
    for number, source in enumerate(two):
        alone = load_problems(DataConfig(**{k: v for k, v in source.items() if k != "weight"}))
        assert data.sources[number] == alone
        assert data.sources[number].sha256 == alone.sha256 != data.sha256
    assert data.source == f"{two[0]['path']}; {two[1]['path']}"


def test_the_hash_is_another_where_any_source_is(two, tmp_path):
    before = load_problems(config(*two)).sha256
    write_rows(tmp_path / "told.jsonl", TOLD[:2])
    assert load_problems(config(*two)).sha256 != before


@pytest.fixture
def refused(tmp_path, two):
    """What is said of two sources after a change to the second one."""

    def said(rows: list[dict] | None = None, **changed: Any) -> str:
        if rows is not None:
            write_rows(tmp_path / "told.jsonl", rows)
        with pytest.raises(ConfigError) as caught:
            load_problems(config(two[0], two[1] | changed))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return said


def test_a_source_that_is_missing_empty_or_other_is_named_with_its_setting(refused, tmp_path):
    assert "data.source.1.path" in (said := refused([]))
    assert "no usable problem (0 rows skipped); check the file and data.source.1.problem" in said
    said = refused(ASKED)
    assert "data.source.1.problem_field = 'problem': no such field; the data has question" in said
    assert "data.source.1.path = 'no.jsonl': no such file" in refused(path="no.jsonl")
    assert "row 1: data.source.1.id_field = 'x'" in refused(TOLD, id_field="x")
    worked = [{"problem": "p", "answer": "He has 3 + 4.\nThat is 7.\n#### 7"}]
    assert 'set data.source.1.answer_after = "####"' in refused(worked)
    same = refused(TOLD, path=str(tmp_path / "as*.jsonl"), **FIELDS)
    assert "asked.jsonl is in data.source.0 too; name every file once" in same


def test_a_source_whose_prompts_are_all_too_long_is_refused_though_others_are_left(
    two, tmp_path, tiny_policy
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    write_rows(tmp_path / "told.jsonl", [{"problem": "p " * 400, "answer": "7"}])
    data = config(*two, on_bad_row="skip")
    with pytest.raises(ConfigError, match=r"data.source.1.path = .*every prompt is longer than"):
        encode_prompts(load_problems(data), tokenizer, data, 100)
    write_rows(tmp_path / "told.jsonl", [*TOLD, {"problem": "p " * 400, "answer": "7"}])
    kept, prompts = encode_prompts(load_problems(data), tokenizer, data, 100)
    assert (len(kept.problems), len(prompts), kept.num_skipped) == (7, 7, 1)


def test_a_problem_is_compared_without_its_own_source_s_template(two):
    two[0]["prompt_template"] = "Solve: {problem}"
    data = config(*two, prompt_template="Say: {problem}")
    loaded = load_problems(data).problems
    assert loaded[0].prompt[-1]["content"] == "Solve: What is 0+1?"
    texts = [question.problem for question in questions_of(loaded, data)]
    assert texts == [row["question"] for row in ASKED] + [row["problem"] for row in TOLD]
    assert [q.answers for q in questions_of(loaded, data)][-1] == ("4", "4.0")


def test_a_problem_that_stands_in_two_sources_is_counted(two, tmp_path, capsys):
    write_rows(tmp_path / "told.jsonl", [*TOLD, {"problem": "What is  $2+1$?", "answer": "3"}])
    data = config(*two)
    assert num_repeated(load_problems(data).problems, data) == 1
    assert "1 problems stand in an earlier source too, such as told/4, which is asked/3" in (
        capsys.readouterr().err
    )


def test_a_recipe_keeps_its_sources_and_finds_them_from_everywhere(
    recipe_tree, two, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("def rows():\n    yield {'problem': 'p', 'answer': '7'}\n")
    relative = [one | {"path": Path(one["path"]).name, "weight": 0.4} for one in two]
    tree = {"source": [*relative, {"path": "own.py:rows", "weight": 0.2}]}
    recipe = validate(recipe_tree() | {"data": tree}, TrainRecipe)
    check(recipe)
    kept = absolute(recipe)
    assert kept.data.paths == (two[0]["path"], two[1]["path"], f"{tmp_path}/own.py:rows")
    assert own_functions(kept) == {"data.source.2.path": f"{tmp_path}/own.py:rows"}
    (tmp_path / "config.toml").write_text(dump_toml(kept))
    assert load_recipe(tmp_path / "config.toml", [], TrainRecipe).data == kept.data
    assert len(load_problems(kept.data).problems) == 8


@pytest.mark.process
def test_rlvr_data_check_sees_every_source_of_a_recipe_and_every_gold(two, tmp_path, capsys):
    near = BULBS.replace("How many bulbs remain lit?", "Find the number of bulbs that remain.")
    write_rows(tmp_path / "told.jsonl", [*TOLD, {"problem": near, "answer": ["1", "449"]}])
    write_rows(tmp_path / "bench.jsonl", [{"id": "b", "problem": BULBS, "answer": ["3", "449"]}])
    tables = [
        "[[data.source]]\n" + "".join(f"{key} = {json.dumps(one[key])}\n" for key in one)
        for one in two
    ]
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "[model]\npath = 'x'\n[optim]\nlr = 1e-3\n[train]\nsteps = 1\n" + "\n".join(tables)
    )
    given = ["data", "check", str(recipe), "--against", str(tmp_path / "bench.jsonl")]
    assert main([*given, "--pairs", str(tmp_path / "pairs.jsonl")]) == 0
    (pair,) = map(json.loads, (tmp_path / "pairs.jsonl").read_text().splitlines())
    assert (pair["train_id"], pair["same_answer"], pair["contaminated"]) == ("told/4", True, True)
    capsys.readouterr()
    for words, message in (
        (["--filtered", "x.jsonl"], "has several sources"),
        (["--problem-field", "q"], "names the fields of its data; leave it out"),
    ):
        assert main([*given, *words]) == 2
        assert message in capsys.readouterr().err


def part(path: Path, rows: list[dict]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def test_a_folder_of_files_is_read_in_order_of_their_names(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in (2, 0, 1):
        part(folder / f"part-{number}.jsonl{'.gz' * (number == 1)}", TOLD[number : number + 1])
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.jsonl.crc").write_text("x")
    data = load_problems(DataConfig(path=str(folder)))
    assert [p.prompt[0]["content"] for p in data.problems] == [row["problem"] for row in TOLD]
    assert not is_on_hub(DataConfig(path=str(folder)))
    assert read_training_rows(str(folder)) == TOLD
    assert read_training_rows(f"{folder}/*.jsonl") == [TOLD[0], TOLD[2]]
    one = config({"path": str(folder)}, {"path": str(folder / "part-0.jsonl")})
    with pytest.raises(ConfigError, match=r"part-0.jsonl is in data.source.0 too"):
        load_problems(one)


SHARDS = [
    ({}, "is empty; put data files there (.jsonl, .ndjson"),
    ({"a.jsonl": TOLD, "b.csv": []}, "holds .csv and .jsonl files; keep one format there, or name"),
    ({"a.jsonl": TOLD, "notes.txt": []}, "notes.txt is no data file; move it out of the folder"),
    ({"a.jsonl": TOLD, "b.jsonl.zst": TOLD}, "b.jsonl.zst is no data file"),
    ({"a.jsonl": TOLD, "a.jsonl.gz": TOLD}, "a.jsonl lies there twice, packed and not; remove"),
    ({"a.jsonl": TOLD, "b.jsonl": []}, "b.jsonl has no rows; remove it, or fetch it again"),
]


@pytest.mark.parametrize(("files", "message"), SHARDS)
def test_a_folder_of_files_that_cannot_be_one_set_is_refused(tmp_path, files, message):
    folder = tmp_path / "shards"
    folder.mkdir()
    for name, rows in files.items():
        part(folder / name, rows)
    with pytest.raises(ConfigError) as caught:
        load_problems(DataConfig(path=str(folder)))
    assert f"data.path = {str(folder)!r}: {folder}" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train-0.jsonl", "train-1.jsonl"], True),
        (["train-0.jsonl", "test-0.jsonl"], False),
        (["a.jsonl", "README.md"], False),
        (["restraint.jsonl", "contest.jsonl"], True),
        (["dataset_dict.json", "state.json"], False),
    ],
)
def test_a_folder_of_which_datasets_knows_more_is_left_to_it(tmp_path, names, expected):
    for name in names:
        part(tmp_path / name, TOLD)
    assert is_shards(str(tmp_path)) == expected
    (tmp_path / "data").mkdir()
    assert not is_shards(str(tmp_path))
