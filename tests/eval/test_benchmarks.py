"""Finding, checking and reading benchmarks: generated files, and the real ones where present."""

import pytest

from eval import benchmarks
from eval.benchmarks import BENCHMARKS, load_benchmark, resolve
from eval.records import Benchmark, DataFile, HubSource
from rewards import Gold, Reason

PINNED = {name: record for name, record in BENCHMARKS.items() if not record.needs_file}


def test_all_but_the_newest_benchmark_have_a_file_that_is_known():
    assert BENCHMARKS.keys() - PINNED.keys() == {"aime26"}


def test_a_benchmark_that_needs_a_file_says_so_and_takes_one(tmp_path, monkeypatch):
    monkeypatch.setenv("RLVR_DATA", str(tmp_path))
    monkeypatch.setattr(benchmarks, "PROJECT_ROOT", tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^aime26: needs a file.* give aime26=FILE.jsonl with"):
        load_benchmark("aime26")
    rows = [f'{{"id": "{i}", "problem": "p{i}", "answer": "{i}"}}\n' for i in range(30)]
    (tmp_path / "mine.jsonl").write_text("".join(rows))
    loaded = load_benchmark(f"aime26={tmp_path / 'mine.jsonl'}")
    assert (loaded.name, len(loaded.questions), loaded.benchmark.samples) == ("aime26", 30, 32)
    (tmp_path / "aime26.jsonl").write_text("".join(rows[:29]))
    with pytest.raises(ValueError, match=r"29 problems in .*aime26.jsonl, expected 30"):
        load_benchmark("aime26")


def test_a_users_file_is_a_benchmark_under_its_own_or_a_given_name(sums_file):
    loaded = load_benchmark(str(sums_file))
    assert (loaded.name, len(loaded.questions)) == ("sums", 12)
    assert loaded.questions[1].subject == "odd"
    assert loaded.questions[1].level == "2"
    assert str(sums_file) in loaded.found
    assert load_benchmark(f"mine={sums_file}").name == "mine"


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match="did you mean math500"):
        resolve("math50")


def test_a_wrong_count_or_hash_is_an_error_with_both_values(sums_file, digest):
    short = Benchmark("sums", (DataFile(str(sums_file)),), 13, "own", 1)
    with pytest.raises(ValueError, match=r"12 problems in .*, expected 13"):
        load_benchmark(short)
    changed = Benchmark("sums", (DataFile(str(sums_file), "0" * 64),), 12, "own", 1)
    with pytest.raises(ValueError, match=f"sha256 {digest(sums_file)}, expected {'0' * 64}"):
        load_benchmark(changed)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a", "problem": "p"}', r":2: no 'answer'; the row has id, problem"),
        ('{"id": "a", "problem": "p", "answer": " "}', r":2: no 'answer'"),
        ("not json", r":2: not JSON"),
        ('["list"]', r":2: needs one JSON object"),
        ('{"id": "x", "problem": "p", "answer": "1"}', "id 'x' occurs twice"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"id": "x", "problem": "p", "answer": "1"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        load_benchmark(str(path))


def test_rlvr_data_comes_before_the_folder_next_to_the_project(tmp_path, monkeypatch):
    (tmp_path / "mine.jsonl").write_text('{"id": "1", "problem": "p", "answer": "2"}\n')
    monkeypatch.setenv("RLVR_DATA", str(tmp_path))
    record = Benchmark("mine", (DataFile("mine.jsonl"),), 1, "own", 1)
    assert load_benchmark(record).found == f"file {tmp_path / 'mine.jsonl'}"


def test_missing_files_say_where_they_were_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("RLVR_DATA", str(tmp_path))
    monkeypatch.setattr(benchmarks, "PROJECT_ROOT", tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"amc23.jsonl not found in {tmp_path}.*set RLVR_DATA"):
        load_benchmark("amc23")


def test_hub_rows_become_questions_with_the_ids_of_the_files():
    gsm8k, math500 = BENCHMARKS["gsm8k"], BENCHMARKS["math500"]
    assert gsm8k.hub is not None
    row = {"question": "How many?", "answer": "We count to get\n#### 1,234"}
    question = benchmarks._hub_question(gsm8k, gsm8k.hub, 7, row)
    assert (question.id, question.answer) == ("gsm8k-test-00007", "1234")
    assert math500.hub == HubSource(
        "HuggingFaceH4/MATH-500", "default", "test", id_field="unique_id"
    )
    row = {"unique_id": "test/algebra/1.json", "problem": "p", "answer": "2", "level": 3}
    question = benchmarks._hub_question(math500, math500.hub, 0, row)
    assert (question.id, question.level) == ("test/algebra/1", "3")


@pytest.mark.usefixtures("real_data")
def test_every_real_benchmark_has_its_count_and_hash():
    for name, record in PINNED.items():
        loaded = load_benchmark(name)
        assert len(loaded.questions) == record.count
        assert loaded.sha256 == tuple(file.sha256 for file in record.files)
    levels = {q.level for q in load_benchmark("math").questions}
    assert levels == {"1", "2", "3", "4", "5"}


@pytest.mark.usefixtures("real_data")
@pytest.mark.process
def test_every_real_gold_verifies_against_itself_boxed_and_in_a_sentence(verifier):
    failed = []
    for name in PINNED.keys() - {"math500"}:
        questions = load_benchmark(name).questions
        golds = [Gold.parse(question.answer) for question in questions]
        for form in ("\\boxed{%s}", "So we find that the answer is $\\boxed{%s}$. Done."):
            pairs = [
                (form.replace("%s", q.answer), g) for q, g in zip(questions, golds, strict=True)
            ]
            verdicts = verifier.verify_many(pairs)
            failed += [
                (name, q.id, v.reason)
                for q, v in zip(questions, verdicts, strict=True)
                if v.reason is not Reason.CORRECT
            ]
    assert failed == []


def test_records_are_consistent():
    for name, record in BENCHMARKS.items():
        assert record.name == name
        assert set(record.contains) <= BENCHMARKS.keys()
        assert record.needs_file or all(len(file.sha256 or "") == 64 for file in record.files)
        assert "{problem}" in record.prompt
