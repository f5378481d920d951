"""Exchange of scored samples with lighteval: its details files, one Parquet file per task.

A row is a problem: `doc` (query, choices, gold_index, id, ...), `model_response` (text: samples,
output_tokens) and `metric`. Checked against lighteval 0.13.0.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

from eval.benchmarks import LoadedBenchmark, load_benchmark
from eval.contamination import bare
from eval.formats.harness import load_for
from eval.formats.samples_file import samples_by_problem
from eval.generations import Generation


def export_details(folder: str | Path, out: str | Path) -> list[Path]:
    """Writes `details_<benchmark>|0_<date>.parquet` in a folder of that date, for every benchmark
    of a scored folder. Token ids are not known, so `output_tokens` is empty."""
    from pyarrow import Table, parquet

    rows = samples_by_problem(Path(folder))
    date = time.strftime("%Y-%m-%dT%H-%M-%S.000000")
    (Path(out) / date).mkdir(parents=True, exist_ok=True)
    paths = []
    for name, by_problem in rows.items():
        loaded = load_for(Path(folder), name)
        details = [
            _detail(loaded, number, by_problem[q.id])
            for number, q in enumerate(loaded.questions)
            if q.id in by_problem
        ]
        paths.append(Path(out) / date / f"details_{name}|0_{date}.parquet")
        parquet.write_table(Table.from_pylist(details), paths[-1])
    return paths


def _detail(loaded: LoadedBenchmark, number: int, samples: list[dict]) -> dict:
    question = loaded.questions[number]
    return {
        "doc": {
            "query": loaded.benchmark.prompt.replace("{problem}", question.problem),
            "choices": list(question.answers),
            "gold_index": list(range(len(question.answers))),  # any of them counts
            "id": str(number),
            "specific": {"id": question.id},
            "task_name": f"{loaded.name}|0",
            "num_samples": len(samples),
        },
        "metric": {f"avg@k:k={len(samples)}": sum(s["correct"] for s in samples) / len(samples)},
        "model_response": {
            "text": [sample["response"] for sample in samples],
            "output_tokens": [[] for _ in samples],
        },
    }


def read_details(path: str | Path, benchmark: str) -> Iterator[Generation]:
    """The responses in a details file as generations of `benchmark`.

    A row's problem is the one that `doc.specific.id` names, else the one whose text `doc.query`
    contains. Raises ValueError for a file of another form or a row that is none of the problems.
    """
    from pyarrow import parquet

    loaded = load_benchmark(benchmark)
    ids = {question.id for question in loaded.questions}
    texts = [(bare(question.problem), question.id) for question in loaded.questions]
    # a problem may be the beginning of a longer one
    texts.sort(key=lambda pair: -len(pair[0]))
    rows = parquet.read_table(path).to_pylist()
    for number, row in enumerate(rows):
        if "doc" not in row or "model_response" not in row:
            raise ValueError(f"{path}: no 'doc' and 'model_response': not a details file")
        doc, response = _tree(row["doc"]), _tree(row["model_response"])
        # details files of lighteval's own tasks name no problem: its text is looked for
        named = (_tree(doc.get("specific")) or {}).get("id")
        query = bare(doc["query"])
        found = named if named in ids else next((i for text, i in texts if text in query), None)
        if found is None:
            raise ValueError(
                f"{path}, row {number}: its query holds no problem of {loaded.name}; name the"
                " benchmark that was run"
            )
        tokens = response.get("output_tokens") or []
        for sample, text in enumerate(response["text"]):
            # a file that we exported has empty lists of ids: their length is not known
            length = len(tokens[sample]) if sample < len(tokens) else 0
            yield Generation(loaded.name, str(found), sample, text, length or None)


def _tree(value: object) -> dict:
    """A nested object, also where a version stored it as JSON text."""
    return json.loads(value) if isinstance(value, str) else value or {}  # pyright: ignore
