"""Data as users bring it: read right, or refused in one line with row and remedy."""

from __future__ import annotations

import csv
import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from eval.benchmarks import load_benchmark
from eval.generations import Generation
from eval.score import score
from rewards import Gold, Reason, Verdict, Verifier
from rewards.verifier import best
from rlvr.cli import main
from rlvr.common.errors import ConfigError
from rlvr.config.train import DataConfig
from rlvr.data.chat import read_messages, turn_end
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.evaluation.problem_sets import eval_sets, held_out_data

WORKED = "He has 3 + 4.\nThat is 7.\n#### 1,007"
ASKED = [{"role": "user", "content": "What is 7?"}]
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}<|assistant|>"
)


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def load(tmp_path):
    """The problems of rows in a JSONL file."""

    def loaded(*rows: dict, **settings: Any):
        path = write_rows(tmp_path / "rows.jsonl", list(rows))
        return load_problems(DataConfig(path=path, **settings)).problems

    return loaded


@pytest.fixture(scope="module")
def tokenizer(tiny_policy):
    return AutoTokenizer.from_pretrained(tiny_policy)


def boxed(answer: object) -> dict:
    return {"problem": "What is 7?", "answer": answer}


GOOD_GOLDS = [
    (["7", "8"], ["7", "8"], ["6", "78"]),
    (["7"], ["7"], ["['7']"]),
    ([7, 0.5], ["7", r"\frac12"], ["70.5"]),
    (["7", "7"], ["7"], ["8"]),
    ("The answer is 42.", ["42"], ["41"]),
    ("So the final answer is: $42$.", ["42"], ["41"]),
    ("Answer: 7", ["7"], [r"\frac17"]),
    ("<answer>7</answer>", ["7"], ["8"]),
    ("#### 72", ["72"], ["2"]),
    ("Monday", ["Monday"], ["Tuesday"]),
    ("the answer", ["the answer"], ["answers"]),
    (True, ["True"], ["False"]),
]


@pytest.mark.parametrize(("answer", "right", "wrong"), GOOD_GOLDS)
@pytest.mark.process
def test_a_gold_is_what_its_writer_meant(load, answer, right, wrong):
    (problem,) = load(boxed(answer))
    with Verifier(num_workers=1) as verifier:
        for text, expected in [*((t, True) for t in right), *((t, False) for t in wrong)]:
            verdict = verifier.verify(f"\\boxed{{{text}}}", problem.golds)
            assert verdict.correct == expected, text
    assert len(problem.others) < len(answer) if isinstance(answer, list) else not problem.others


BAD_GOLDS = [
    (WORKED, r"worked solution with its answer behind '####'; set data.answer_after = \"####\""),
    ("Tom had 3 apples and then he found 4 more so he has 7", "is prose of 11 words"),
    ("He has 7.\nSo there are 7 in all.", "is prose of"),
    ({"value": "7"}, "answer is an object with value"),
    ([["7"]], "answer is a list"),
    ([], "answer is empty"),
    (["7", None], "answer is empty"),
    (["7", "\\frac{1"], "braces that do not match"),
    (float("inf"), r"answer is the number inf; write \\infty"),
    (float("nan"), "is no value"),
]


@pytest.mark.parametrize(("answer", "message"), BAD_GOLDS)
def test_a_gold_that_nothing_could_equal_is_refused_by_row_or_skipped(load, answer, message):
    rows = [boxed("1"), boxed(answer), boxed("3")]
    with pytest.raises(ConfigError) as caught:
        load(*rows)
    assert "row 2: " in str(caught.value)
    assert message.replace('\\"', '"').replace("\\\\", "\\") in str(caught.value)
    assert 'data.on_bad_row = "skip"' in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [p.id for p in load(*rows, on_bad_row="skip")] == ["1", "3"]


def test_a_date_is_no_gold(tmp_path):
    import datasets

    path = tmp_path / "a.parquet"
    datasets.Dataset.from_list([boxed(datetime.date(2021, 1, 1))]).to_parquet(path)
    with pytest.raises(ConfigError, match=r"row 1: answer is a date \(2021-01-01\)"):
        load_problems(DataConfig(path=str(path)))


def test_answer_after_takes_what_follows_the_mark_and_refuses_a_row_without_it(load):
    (problem,) = load(boxed(WORKED), answer_after="####")
    assert (problem.answer, problem.gold.number) == ("1007", (1007, 1))
    pair = load(boxed("a #### (1, 2)"), answer_after="####")[0]
    assert pair.answer == "(1, 2)", "commas of a tuple stay"
    with pytest.raises(ConfigError, match="row 2: answer has nothing behind '####'"):
        load(boxed(WORKED), boxed("7"), answer_after="####")


def test_the_held_out_set_takes_its_own_mark(make_recipe):
    recipe = make_recipe(data={"answer_after": "####"}, eval={"path": "x.jsonl"})
    config = held_out_data(recipe)
    assert config is not None
    assert config.answer_after == "####"
    plain = make_recipe(data={"answer_after": "####"}, eval={"path": "x.jsonl", "answer_after": ""})
    config = held_out_data(plain)
    assert config is not None
    assert config.answer_after is None


@pytest.mark.process
def test_of_several_golds_any_counts():
    with Verifier(num_workers=1) as verifier:
        golds = (Gold.parse("7"), Gold.parse("8"))
        pairs = [("\\boxed{8}", golds), ("\\boxed{9}", golds), ("\\boxed{8}", golds[1]),
                 ("\\boxed{8}", ("oops {", "8")), ("none", golds), ("\\boxed{8}", golds[1:]),
                 ("\\boxed{9}", ("oops {", "8"))]  # fmt: skip
        reasons = [v.reason for v in verifier.verify_many(pairs)]
        assert reasons == [
            "correct", "wrong", "correct", "correct", "no_answer", "correct", "wrong"
        ]  # fmt: skip
        assert sum(verifier.stats().reasons.values()) == len(pairs), "one verdict a response"


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ("wrong timeout", "timeout"),
        ("worker_died wrong", "worker_died"),
        ("timeout correct", "correct"),
        ("gold_invalid unparsed", "unparsed"),
        ("wrong unparsed", "wrong"),
    ],
)
def test_a_failure_of_ours_on_one_of_several_golds_is_never_wrong(reasons, expected):
    verdicts = [Verdict(r == "correct", Reason(r), "7", "s", 2.0) for r in reasons.split()]
    chosen = best(verdicts)
    assert (chosen.reason, chosen.correct, chosen.ms) == (expected, expected == "correct", 4.0)


@pytest.mark.process
def test_evaluation_scores_several_golds_as_training_does(tmp_path, make_recipe, tokenizer):
    path = write_rows(tmp_path / "mine.jsonl", [{"id": "a", **boxed(["7", "x=8"])}])
    answers = [Generation("mine", "a", i, f"\\boxed{{{t}}}") for i, t in enumerate("789")]
    with Verifier(num_workers=1) as judge:
        mine = score(answers, judge, benchmarks=[path])
        recipe = make_recipe(eval={"path": path})
        config = held_out_data(recipe)
        assert config is not None
        held_out = encode_prompts(load_problems(config), tokenizer, config, 100)
        (one,) = eval_sets(recipe, held_out, [], tokenizer)
        ours = [Generation("heldout", "a", g.sample, g.response) for g in answers]
        run = score(ours, judge, benchmarks=[one.loaded])
    assert mine["benchmarks"]["mine"]["avg@k"]["value"] == pytest.approx(2 / 3)
    assert run["benchmarks"]["heldout"]["avg@k"]["value"] == pytest.approx(2 / 3)
    write_rows(tmp_path / "mine.jsonl", [{"id": "a", **boxed({"a": 1})}])
    with pytest.raises(ValueError, match=r"mine.jsonl:1: 'answer' is an object"):
        load_benchmark(path)


def test_messages_of_any_form_become_texts():
    parts = [{"type": "text", "text": "What "}, {"type": "text", "text": "is 7?"}]
    assert read_messages([{"role": "user", "content": parts}], "p") == ASKED
    assert read_messages([{"from": "human", "value": "What is 7?"}], "p") == ASKED
    talk = [{"from": "system", "value": "s"}, *({"from": f, "value": f} for f in ("human", "gpt"))]
    assert [m["role"] for m in read_messages(talk, "p")] == ["system", "user", "assistant"]
    with_nulls = [{"role": "user", "content": "What is 7?", "tool_calls": None}]
    assert read_messages(with_nulls, "p") == ASKED


BAD_PROMPTS = [
    (["a", "b"], "problem is not a list of messages"),
    ([{"from": "narrator", "value": "x"}], "message 1 is from 'narrator'"),
    ([*ASKED, {"role": "assistant", "content": None, "tool_calls": []}], "message 2 (assistant) "),
    ([*ASKED, {"role": "assistant", "content": "It is 7."}], "ends with the assistant's turn"),
    ([{"role": "user", "content": "x", "tool_calls": [{"id": "1"}]}], "calls tools"),
    ([{"role": "user", "content": [{"type": "image", "image": "a.png"}]}], "part of type image"),
    ([{"role": "user", "content": [{"type": "text"}]}], "without a text"),
    ([{"role": "user", "content": 7}], "content that is no text: 7"),
    ([{"role": "user"}], "not a list of messages"),
    ({"text": "a"}, "neither a text nor a list of messages"),
    (" ", "problem is empty"),
]


@pytest.mark.parametrize(("problem", "message"), BAD_PROMPTS)
def test_a_prompt_that_cannot_be_asked_is_refused_by_row_or_skipped(load, problem, message):
    rows = [boxed("1"), {"problem": problem, "answer": "7"}]
    with pytest.raises(ConfigError) as caught:
        load(*rows)
    assert "row 2: " in str(caught.value)
    assert message in str(caught.value)
    assert [p.id for p in load(*rows, on_bad_row="skip")] == ["1"]


def test_two_system_messages_are_refused(load):
    row = {"problem": [{"role": "system", "content": "A"}, *ASKED], "answer": "7"}
    assert load(row)[0].prompt[0] == {"role": "system", "content": "A"}
    with pytest.raises(ConfigError, match=r"row 1: problem has a system message .*; remove one"):
        load(row, system_prompt="B")


def test_an_id_that_occurs_twice_names_both_rows(load):
    rows = [{"id": i, **boxed("7")} for i in ("x", "y", "x")]
    with pytest.raises(ConfigError, match=r"row 3: id = 'x' is the id of row 1 too"):
        load(*rows, id_field="id")
    assert [p.id for p in load(*rows, id_field="id", on_bad_row="skip")] == ["x", "y"]
    assert [p.id for p in load(*rows)] == ["1", "2", "3"]


def test_a_field_with_dots_in_its_name_comes_before_a_nested_one(load):
    rows = [{"meta.problem": "p", "a.b": "1", "a": {"b": "2"}, "c.d": {"e.f": "3"}}]
    for name, expected in (("a.b", "1"), ("c.d.e.f", "3")):
        (problem,) = load(*rows, problem_field="meta.problem", answer_field=name)
        assert problem.answer == expected


ROWS = [boxed("7"), {"problem": "a, b\nc", "answer": "x=7"}]


def save(folder: Path, kind: str) -> str:
    """ROWS as a file, pattern or folder of the kind; what data.path has to be."""
    import datasets

    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    texts = {"UP.JSONL": lines, "a.ndjson": lines, "lines.json": lines, "list.json": ROWS,
             "columns.json": {k: [r[k] for r in ROWS] for k in ROWS[0]}}  # fmt: skip
    path = folder / kind
    if kind in texts:
        path.write_text(texts[kind] if isinstance(texts[kind], str) else json.dumps(texts[kind]))
    elif kind.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif kind.endswith((".csv", ".tsv")):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            delimiter = "\t" if kind.endswith(".tsv") else ","
            writer = csv.DictWriter(file, ROWS[0], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS)
    elif kind == "part-*.jsonl":
        for number, row in enumerate(ROWS):
            write_rows(folder / f"part-{number}.jsonl", [row])
    elif kind == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(path)
    elif kind == "splits":
        datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(path)
    return str(path)


KINDS = ("UP.JSONL", "a.ndjson", "a.jsonl.gz", "lines.json", "list.json", "columns.json", "a.csv",
         "a.tsv", "part-*.jsonl", "saved", "splits")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_every_kind_give_the_same_problems(tmp_path, kind):
    problems = load_problems(DataConfig(path=save(tmp_path, kind))).problems
    assert [(p.prompt[0]["content"], p.answer) for p in problems] == [
        (row["problem"], row["answer"]) for row in ROWS
    ]


def test_csv_values_stay_texts(tmp_path):
    (tmp_path / "a.csv").write_text("problem,answer\np,007\nq,None\nr,1e3\n")
    problems = load_problems(DataConfig(path=str(tmp_path / "a.csv"))).problems
    assert [p.answer for p in problems] == ["007", "None", "1e3"]


def test_json_columns_of_mixed_types_come_as_they_are(tmp_path):
    rows = [boxed(7), boxed("x=7"), boxed("7"), boxed(["7", "8"])]
    (tmp_path / "mixed.json").write_text(json.dumps(rows))
    problems = load_problems(DataConfig(path=str(tmp_path / "mixed.json"))).problems
    assert [(p.answer, len(p.others)) for p in problems] == [
        ("7", 0), ("x=7", 0), ("7", 0), ("7", 1)
    ]  # fmt: skip


BAD_FILES = [
    ("a.txt", b"x", "not one of .jsonl, .ndjson, .json, .csv, .tsv, .parquet; datasets.load_"),
    ("a.json", b'"x"', "not a list of objects"),
    ("a.json", b"[1]", "row 1: not an object"),
    ("a.json", b'{"a": [1], "b": [1, 2]}', "different lengths"),
    ("a.json", b"{", "not JSON"),
    ("a.csv", b"problem,answer\np\n", "line 2: more or fewer fields than names"),
    ("a.jsonl", b'{"a": "\xff"}\n', "can't decode byte"),
    ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n', mtime=0)[:12], "damaged"),
    ("a.jsonl", b"[" * 100_000 + b"\n", "line 1: not JSON"),
    ("a.parquet", b"x", "cannot be read"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_a_file_that_cannot_be_read_says_so_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_problems(DataConfig(path=str(tmp_path / name)))
    assert message in str(caught.value)
    assert f"data.path = {str(tmp_path / name)!r}" in str(caught.value)


def test_training_data_and_benchmarks_are_found_in_the_same_folders(tmp_path, monkeypatch):
    for place in ("shared/data", "mine"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("RLVR_DATA", raising=False)

    def both() -> tuple[str, str]:
        found = load_benchmark("x=some_file.jsonl").found.removeprefix("file ")
        return load_problems(DataConfig(path="some_file.jsonl")).source, found

    expected = write_rows(tmp_path / "shared/data/some_file.jsonl", [{"id": "1", **boxed("7")}])
    assert both() == (expected, expected)
    expected = write_rows(tmp_path / "mine/some_file.jsonl", [{"id": "1", **boxed("7")}])
    monkeypatch.setenv("RLVR_DATA", str(tmp_path / "mine"))
    assert both() == (expected, expected)


TEMPLATES = [
    (GEMMA, {"system_prompt": "Be brief."}, "(System role not supported); write data.system_"),
    ("{% for m in messages %}", {}, "not valid Jinja (line 1:"),
    ("{{ messages[0].foo.bar }}", {}, "'dict object' has no attribute 'foo'"),
    ("{{ 1 + messages[0].content }}", {}, "unsupported operand"),
    ("{% if false %}x{% endif %}", {}, "gives no text"),
    (" ", {}, "the file is empty"),
    (None, {}, "no such file"),
]


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
@pytest.mark.parametrize(("template", "settings", "message"), TEMPLATES)
def test_a_template_that_fails_is_one_line_with_the_remedy(
    tmp_path, tokenizer, load, template, settings, message, on_bad_row
):
    path = tmp_path / "chat.jinja"
    if template is not None:
        path.write_text(template)
    load(boxed("7"), boxed("8"))
    config = DataConfig(
        path=str(tmp_path / "rows.jsonl"),
        chat_template=str(path),
        on_bad_row=on_bad_row,
        **settings,
    )
    with pytest.raises(ConfigError) as caught:
        encode_prompts(load_problems(config), tokenizer, config, 100)
    assert message in str(caught.value)
    assert "chat_template" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.process
def test_the_command_line_answers_a_users_fault_with_one_line_and_2(write_recipe, capsys, tmp_path):
    recipe = str(write_recipe())
    rows = write_rows(tmp_path / "worked.jsonl", [{"id": "a", **boxed(WORKED)}])
    (tmp_path / "chat.jinja").write_text("{% for m in messages %}")
    for words, message in (
        (["--data.path", rows], 'set data.answer_after = "####"'),
        (["--data.chat_template", str(tmp_path / "chat.jinja")], "not valid Jinja"),
        (["--data.chat_template", "nosuch.jinja"], "no such file"),
        (["--data.path", "nosuch.xlsx"], "not one of .jsonl"),
    ):
        assert main(["train", recipe, *words]) == 2
        lines = [line for line in capsys.readouterr().err.split("\n") if "rlvr: error" in line]
        assert len(lines) == 1, words
        assert message in lines[0]


def test_the_token_that_ends_a_turn_is_read_off_the_template(tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert turn_end(tokenizer, None) == end
    assert turn_end(tokenizer, GEMMA.replace("m['content'] }}", "m['content'] }}<|pad|>")) == (
        tokenizer.convert_tokens_to_ids("<|pad|>")
    )
    assert turn_end(tokenizer, "{{ messages[0].content }}") is None
