import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from rlvr.common.errors import ConfigError
from rlvr.config.train import DataConfig
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.data.rows import find_data_file


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ROWS = [{"problem": f"What is {i}+1?", "answer": str(i + 1)} for i in range(4)]


def test_jsonl_and_parquet_give_the_same_problems(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    jsonl = write_rows(tmp_path / "a.jsonl", ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    a = load_problems(DataConfig(path=jsonl))
    b = load_problems(DataConfig(path=str(tmp_path / "a.parquet")))
    assert a.problems == b.problems
    assert a.sha256 == b.sha256
    assert [p.answer for p in a.problems] == ["1", "2", "3", "4"]


def test_fields_may_be_nested_and_prompts_may_be_chat_messages(tmp_path):
    rows = [
        {
            "prompt": [{"role": "user", "content": "Hi"}],
            "reward_model": {"ground_truth": "7"},
            "n": 9,
        }
    ]
    config = DataConfig(
        path=write_rows(tmp_path / "a.jsonl", rows),
        problem_field="prompt",
        answer_field="reward_model.ground_truth",
        id_field="n",
        system_prompt="Be brief.",
    )
    (problem,) = load_problems(config).problems
    assert (problem.id, problem.answer) == ("9", "7")
    assert [m["role"] for m in problem.prompt] == ["system", "user"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "x", "answer": ""}, "row 2: answer is empty"),
        ({"problem": "x", "answer": None}, "row 2: answer is empty"),
        ({"problem": "", "answer": "1"}, "row 2: problem is empty"),
        ({"problem": "x", "answer": "\\frac{1"}, "row 2: "),
    ],
)
def test_a_bad_row_is_named_or_skipped_and_counted(tmp_path, row, message):
    path = write_rows(tmp_path / "a.jsonl", [ROWS[0], row, ROWS[1]])
    with pytest.raises(ConfigError) as caught:
        load_problems(DataConfig(path=path))
    assert message in str(caught.value)
    data = load_problems(DataConfig(path=path, on_bad_row="skip"))
    assert (len(data.problems), data.num_skipped) == (2, 1)


def test_the_first_problems_of_each_answer_are_kept(tmp_path):
    answers = ["1", "2", "1", "3", "1", "2"]
    rows = [{"problem": f"Problem {i}?", "answer": a} for i, a in enumerate(answers)]
    path = write_rows(tmp_path / "a.jsonl", rows)
    capped = load_problems(DataConfig(path=path, max_per_answer=1))
    # a problem keeps the id of its row: what is sampled for it is what it was without the cap
    assert [(p.id, p.answer) for p in capped.problems] == [("1", "1"), ("2", "2"), ("4", "3")]
    assert capped.num_skipped == 0
    two = load_problems(DataConfig(path=path, max_per_answer=2))
    assert [p.id for p in two.problems] == ["1", "2", "3", "4", "6"]
    assert len({d.sha256 for d in (capped, two, load_problems(DataConfig(path=path)))}) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "nowhere.jsonl"}, "no such file"),
        ({"path": "no-such-owner/no-such-set"}, "the hub gave no such dataset"),
        ({"path": "generated:sums", "limit": 3}, "did you mean generated:word_problems?"),
        ({"path": "generated:word_problems"}, "data.limit: missing"),
        ({"path": "generated:word_problems", "limit": 3, "split": "dev"}, "data.split = 'dev'"),
    ],
)
def test_a_missing_source_says_where_it_looked(settings, message):
    with pytest.raises(ConfigError) as caught:
        load_problems(DataConfig(**settings))
    assert message in str(caught.value)


def test_a_missing_field_an_empty_file_and_broken_json_are_named(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(ConfigError, match=r"data.answer_field = 'gold': no such field"):
        load_problems(DataConfig(path=path, answer_field="gold"))
    with pytest.raises(ConfigError, match="a file has none"):
        load_problems(DataConfig(path=path, split="test"))
    with pytest.raises(ConfigError, match="only generated problems have levels"):
        load_problems(DataConfig(path=path, levels=(1,)))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no usable problem"):
        load_problems(DataConfig(path=str(tmp_path / "empty.jsonl")))
    (tmp_path / "broken.jsonl").write_text('{"problem": "x"\n')
    with pytest.raises(ConfigError, match="line 1: not JSON"):
        load_problems(DataConfig(path=str(tmp_path / "broken.jsonl")))


def test_files_are_found_in_rlvr_data(tmp_path, monkeypatch):
    write_rows(tmp_path / "mine.jsonl", ROWS)
    monkeypatch.setenv("RLVR_DATA", str(tmp_path))
    assert find_data_file("mine.jsonl") == tmp_path / "mine.jsonl"


def test_a_prompt_longer_than_the_context_is_named_or_skipped(tmp_path, tiny_policy):
    rows = [ROWS[0], {"problem": "long " * 60, "answer": "1"}]
    config = DataConfig(path=write_rows(tmp_path / "a.jsonl", rows))
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    with pytest.raises(ConfigError, match="problem 2: its prompt has"):
        encode_prompts(load_problems(config), tokenizer, config, max_prompt_len=30)
    skip = config.model_copy(update={"on_bad_row": "skip"})
    data, prompts = encode_prompts(load_problems(skip), tokenizer, skip, max_prompt_len=30)
    assert (len(data.problems), len(prompts), data.num_skipped) == (1, 1, 1)
    assert "What is 0+1?" in tokenizer.decode(prompts[0])
    with pytest.raises(ConfigError, match="every prompt is longer"):
        encode_prompts(load_problems(skip), tokenizer, skip, max_prompt_len=2)
