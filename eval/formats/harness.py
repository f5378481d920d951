"""Exchange of scored samples with EleutherAI's lm-evaluation-harness.

Its `--log_samples` files hold one object per document and filter: all responses of a problem are
`resps[0]`, and metrics are top-level numbers named in `metrics`.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from eval.benchmarks import LoadedBenchmark, Question, load_benchmark
from eval.formats.jsonl import read_objects
from eval.formats.samples_file import samples_by_problem
from eval.generations import Generation

FILTER = "none"
METRIC = "exact_match"


def export_samples(folder: str | Path, out: str | Path) -> list[Path]:
    """Writes `samples_<benchmark>_0.jsonl` for every benchmark of a scored folder.

    A document is the problem, its metric `exact_match` the mean over its samples (avg@k).
    """
    folder, out = Path(folder), Path(out)
    rows = samples_by_problem(folder)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, by_problem in rows.items():
        benchmark = load_for(folder, name)
        paths.append(out / f"samples_{name}_0.jsonl")
        with paths[-1].open("w", encoding="utf-8") as file:
            for number, question in enumerate(benchmark.questions):
                if question.id in by_problem:
                    document = _document(number, question, benchmark, by_problem[question.id])
                    file.write(json.dumps(document, ensure_ascii=False) + "\n")
    return paths


def read_harness_samples(path: str | Path, benchmark: str) -> Iterator[Generation]:
    """The responses in one of its samples files as generations of `benchmark`.

    The problem's id is `doc.id` or `doc.unique_id` where the file has one, else the benchmark's
    problem at position `doc_id`. Only the first filter's rows are read: filters repeat responses.
    """
    loaded = load_benchmark(benchmark)
    chosen = None
    for number, row in read_objects(Path(path)):
        if "resps" not in row or "doc_id" not in row:
            raise ValueError(f"{path}:{number}: no 'resps' and 'doc_id': not a samples file")
        # every filter repeats the same responses in `resps`
        chosen = chosen or row.get("filter", FILTER)
        if row.get("filter", FILTER) != chosen:
            continue
        doc = row.get("doc") or {}
        # unique_id: MATH-500's name for it, a path such as test/algebra/1.json
        named = doc.get("id") or str(doc.get("unique_id", "")).removesuffix(".json")
        problem = str(named) if named else loaded.questions[row["doc_id"]].id
        for sample, response in enumerate(row["resps"][0]):
            yield Generation(loaded.name, problem, sample, response)


def load_for(folder: Path, name: str) -> LoadedBenchmark:
    """The benchmark that a folder was scored on; a user's file is found again by its path."""
    results = json.loads((folder / "results.json").read_text("utf-8"))
    found = results["benchmarks"][name]["source"]["found"]
    kind, _, where = found.partition(" ")
    # a benchmark of several files has no single path; its name finds them again
    known = f"{name}={where}" if kind == "file" and ", " not in where else name
    return load_benchmark(known)


def _document(
    number: int, question: Question, benchmark: LoadedBenchmark, samples: list[dict]
) -> dict:
    doc = {"id": question.id, "problem": question.problem, "answer": question.answer}
    prompt = benchmark.benchmark.prompt.replace("{problem}", question.problem)
    responses = [sample["response"] for sample in samples]
    return {
        "doc_id": number,
        "doc": doc,
        "target": question.answer,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {}}},
        "resps": [responses],
        "filtered_resps": [sample["answer"] or "" for sample in samples],
        "filter": FILTER,
        "metrics": [METRIC],
        "doc_hash": _sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _sha256(prompt),
        "target_hash": _sha256(question.answer),
        METRIC: sum(sample["correct"] for sample in samples) / len(samples),
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
