"""Every reader of JSON lines takes a row with any line separator of Unicode inside a string."""

import ast
import gzip
import json
import random
import zlib
from pathlib import Path

import pytest

from eval.benchmarks import load_benchmark
from eval.compare import read_result
from eval.formats.harness import read_harness_samples
from eval.formats.jsonl import read_lines, read_objects
from eval.formats.samples_file import read_samples
from eval.generations import Generation, GenerationLog, read_generations, write_generations
from rlvr.analysis.diversity import read_groups
from rlvr.analysis.forgetting import read_choices
from rlvr.compare.learning_rate.transfer import PastSearch, recall, remember
from rlvr.config.train import DataConfig
from rlvr.data.check import read_training_rows
from rlvr.data.problems import load_problems
from rlvr.plan.calibrate import measured_steps
from rlvr.runs.reader import read_metrics, read_rollouts

ROOT = Path(__file__).parents[1]
SOURCES = sorted(p for d in ("eval", "rewards", "rlvr") for p in (ROOT / d).rglob("*.py"))
SEPARATORS = "\u2028\u2029\u0085\u000b\u000c\u001c\u001d\u001e"
TEXT = f"a{'b'.join(SEPARATORS)}c"


def row(**fields) -> str:
    """One line with the separators as they are wherever JSON allows it: as other tools write it."""
    line = json.dumps(fields, ensure_ascii=False)
    assert "\u2028" in line or "\u2028" not in str(fields)
    return line + "\n"


def calls(node: ast.AST) -> set[str]:
    """Names of the methods and functions called below the node."""
    found = (n.func for n in ast.walk(node) if isinstance(n, ast.Call))
    return {f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in found}


def splits_json(source: str) -> list[str]:
    """Functions that read JSON beside splitlines, which breaks rows apart."""
    if "splitlines" not in source:
        return []
    functions = [
        n
        for n in ast.walk(ast.parse(source))
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return [f.name for f in functions if {"splitlines", "loads"} <= calls(f)]


def test_no_function_reads_json_beside_splitlines():
    found = {str(p.relative_to(ROOT)): splits_json(p.read_text("utf-8")) for p in SOURCES}
    assert {path: names for path, names in found.items() if names} == {}


def test_the_scan_finds_what_it_looks_for():
    assert splits_json("def f(p):\n lines = p.splitlines()\n return [json.loads(x) for x in lines]")


def test_all_separators_stand_in_one_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\ufeff" + row(t=TEXT) + "\n" + row(t="d"), "utf-8")
    assert [(n, r["t"]) for n, r in read_objects(path)] == [(1, TEXT), (3, "d")]
    path.write_bytes(gzip.compress((row(t=TEXT).replace("\n", "\r\n") * 2).encode()))
    assert [json.loads(line)["t"] for _, line in read_lines(path)] == [TEXT, TEXT]


def test_training_rows_and_benchmarks_keep_such_rows(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(row(id="x", problem=TEXT, answer="7"), "utf-8")
    (problem,) = load_problems(DataConfig(path=str(path))).problems
    assert problem.prompt[0]["content"] == TEXT
    assert read_training_rows(str(path))[0]["problem"] == TEXT
    assert load_benchmark(str(path)).questions[0].problem == TEXT


def test_generations_and_scored_folders_keep_such_rows(tmp_path):
    generation = Generation("mine", TEXT, 0, TEXT)
    write_generations(tmp_path / "g.jsonl.gz", [generation])
    assert list(read_generations(tmp_path / "g.jsonl.gz")) == [generation]
    log = GenerationLog(tmp_path / "log.jsonl.gz", {})
    log.append([generation])
    assert GenerationLog(tmp_path / "log.jsonl.gz", {}).done == {generation.key}
    (tmp_path / "problems.jsonl").write_text(row(benchmark="mine", id=TEXT, n=1, c=1), "utf-8")
    assert read_result(tmp_path).problems["mine"][TEXT]["n"] == 1
    (tmp_path / "samples.jsonl.gz").write_bytes(gzip.compress(row(response=TEXT).encode()))
    assert next(read_samples(tmp_path))["response"] == TEXT
    (tmp_path / "h.jsonl").write_text(row(resps=[[TEXT]], doc_id=0, doc={"id": "x"}), "utf-8")
    (tmp_path / "mine.jsonl").write_text(row(id="x", problem="p", answer="7"), "utf-8")
    harness = read_harness_samples(tmp_path / "h.jsonl", str(tmp_path / "mine.jsonl"))
    assert next(harness).response == TEXT


def test_run_folders_keep_such_rows(tmp_path):
    (tmp_path / "rollouts").mkdir()
    rollout = row(problem_id=TEXT, prompt=TEXT, response=TEXT, response_len=3)
    (tmp_path / "rollouts/step_2.jsonl.gz").write_bytes(gzip.compress(rollout.encode()))
    (tmp_path / "metrics.jsonl").write_text(row(step=1, note=TEXT) + row(step=2), "utf-8")
    assert read_rollouts(tmp_path / "rollouts/step_2.jsonl.gz")[0]["response"] == TEXT
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2]
    assert read_groups([tmp_path]) == [[TEXT]]
    assert measured_steps(tmp_path)[0].lengths == [3]
    (tmp_path / "choices.jsonl").write_text(row(question=TEXT, choices=["a", TEXT], answer=1))
    assert read_choices(tmp_path / "choices.jsonl")[0].question == TEXT
    found = PastSearch(TEXT, 1e-4, 8, 16, 10, 100, 64)
    remember(found, tmp_path / "finds.jsonl")
    (tmp_path / "finds.jsonl").write_text(row(**vars(found)), "utf-8")
    assert recall(tmp_path / "finds.jsonl") == [found]


@pytest.mark.parametrize(
    "content",
    [b'{"a": 1}\n{"a": \xff}\n', gzip.compress(b'{"a": 1}\n')[:-9]],
    ids=["not text", "cut off"],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.jsonl: not a whole UTF-8 file"):
        list(read_objects(path))


def test_a_log_of_many_batches_is_opened_in_linear_time(tmp_path, monkeypatch):
    """By the bytes that inflating is given, which were the rest of the file for every batch."""
    given, real = [0], zlib.decompressobj

    class Counting:
        def __init__(self, **options):
            self.inner = real(**options)

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def decompress(self, data: bytes) -> bytes:
            given[0] += len(data)
            return self.inner.decompress(data)

    def cost(num_batches: int) -> int:
        path = tmp_path / f"{num_batches}.jsonl.gz"
        texts = (random.Random(i).randbytes(300).hex() for i in range(num_batches))
        rows = (row(benchmark="b", id=text, response="r") for text in texts)
        path.write_bytes(b"".join(gzip.compress(text.encode()) for text in rows))
        given[0] = 0
        assert len(GenerationLog(path, {}).done) == num_batches
        return given[0]

    monkeypatch.setattr("eval.generations.zlib.decompressobj", Counting)
    assert cost(800) < 3 * cost(400)
