"""The benchmarks: one record each, with what its file must be. Loading is in `eval.benchmarks`."""

from dataclasses import dataclass

BOXED_PROMPT = (
    "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
)
"""The usual instruction to reasoning models; `{problem}` is replaced, nothing else is."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A JSONL file and its sha256. None: not checked (a user's own file)."""

    name: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class HubSource:
    """A dataset on the hub. revision "main" is not pinned: give a commit to pin it.

    id_field None: the row number gives the id. answer_after: the gold is what follows this mark.
    """

    repo: str
    config: str
    split: str
    problem_field: str = "problem"
    answer_field: str = "answer"
    id_field: str | None = None
    answer_after: str | None = None
    revision: str = "main"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark: where it comes from, what it must contain, how it is usually sampled.

    files: read one after the other. fields: the names of (id, problem, answer) in them. samples:
    responses per problem that its scores are usually averaged over. contains: benchmarks whose
    problems are also in this one. hub None: no hub source is known that holds the same problems.
    """

    name: str
    files: tuple[DataFile, ...]
    count: int | None
    licence: str
    samples: int
    hub: HubSource | None = None
    prompt: str = BOXED_PROMPT
    fields: tuple[str, str, str] = ("id", "problem", "answer")
    contains: tuple[str, ...] = ()
    note: str = ""

    @property
    def needs_file(self) -> bool:
        """Whether its problems come from a file that the user gives: none is pinned or on the
        hub."""
        is_known = self.count is not None and self.hub is None
        return is_known and all(file.sha256 is None for file in self.files)


# a benchmark is its bytes: files of one name with other problems give other scores
_SHA256 = {
    "math500": "9b92e25d677f81dbbbccbbcd1ab6ea169bb227c975e4d9dbd1497de82050f927",
    "aime24": "8a8b9f2e217ccd315ee06c429df768bf765d4daf9bfb4744eee91351e1c9fa75",
    "aime25": "fa30917e166c47f36c7a108e34cc56f0c47710f53d74513768f517d2c19ea1ed",
    "amc23": "b9140d4200abb2d8c5c5d7a663d9d302ada1809351566f3a93a5921fbd5dc588",
    "amc2223": "83cbe3a1627c8032535aeb47d9d0ba910925b264ebce80913a2a8978041a7fa4",
    "minerva": "8fd07d39ed883b77c861a421690c220cc3389f6b1cb441fd700ab1afb8683729",
    "olympiadbench": "266f3814002fb886ce4f0fcd034945de6c53881af75756407f64dde5b2bf48f5",
    "hmmt25": "44f91e7512b2126c1f26c01581ae89ab1ec93216638f91295ff7df4b8829d9b4",
    "hmmt25_nov": "e2080ad5d41873c2b399ce30c9e0c8fae9795edff3585c6ea18507dc175a844f",
    "brumo25": "46a38b03517dd4e9cdaa20007363ab15251f73a314c6cf74add5f53269c5c978",
    "cmimc25": "9ceb035328849daf854a475743970ded355687150e81b8c16e8c5d308ed9a557",
    "gsm8k_test": "8130d9c0807eaf6687c5b91a47746acb85a8510142b81e23dd3aeba7ec933b4b",
    "math_test4500": "22875d03808599ca30aae074e59f7bb55970af8ddf81b3f5c99ea551de5e7cf5",
}
"""The hash of each file NAME.jsonl."""


def _files(*names: str) -> tuple[DataFile, ...]:
    return tuple(DataFile(f"{name}.jsonl", _SHA256[name]) for name in names)


_MAA = "problems owned by the MAA, not redistributable"
_AIME26 = "AIME I and II of 2026; needs a file of your own, aime26.jsonl or aime26=FILE.jsonl"
_MATHARENA = "CC BY-NC-SA 4.0 (MathArena)"
_NO_PARAGRAPH = "OE_TO_maths_en_COMP less the one problem whose answer is a paragraph"
_NO_REPEATS = "MATH test: 5,000 problems less 11 that repeat others or OlympiadBench or MATH train"
# not pinned to a commit; an upload of another size is refused by `count`
_AIME24_HUB = HubSource("HuggingFaceH4/aime_2024", "default", "train")
_AIME25_HUB = HubSource("yentinglin/aime_2025", "default", "train")
_MATH_HUB = HubSource("HuggingFaceH4/MATH-500", "default", "test", id_field="unique_id")
# its configuration is called "main" too, which is no revision
_GSM8K_HUB = HubSource("openai/gsm8k", "main", "test", "question", answer_after="####")


def _record(name: str, count: int, licence: str, samples: int, **more) -> Benchmark:
    return Benchmark(name, more.pop("files", None) or _files(name), count, licence, samples, **more)


_RECORDS = [
    _record("aime24", 30, _MAA, 32, hub=_AIME24_HUB),
    _record("aime25", 30, _MAA, 32, hub=_AIME25_HUB),
    # the competition's problems may not be redistributed, and no file is pinned: give one
    _record("aime26", 30, _MAA, 32, files=(DataFile("aime26.jsonl"),), note=_AIME26),
    _record("amc23", 40, _MAA, 32, note="AMC 12 of 2023, the problems with an integer answer"),
    _record("amc2223", 83, _MAA, 32, contains=("amc23",), note="AMC 12 of 2022 and 2023"),
    _record("math500", 500, "MIT", 4, hub=_MATH_HUB),
    _record("minerva", 272, "MIT OpenCourseWare material", 4),
    _record("olympiadbench", 674, "MIT", 4, note=_NO_PARAGRAPH),
    _record("hmmt25", 30, _MATHARENA, 32, note="HMMT of February 2025"),
    _record("hmmt25_nov", 30, _MATHARENA, 32, note="HMMT of November 2025"),
    _record("brumo25", 30, _MATHARENA, 32),
    _record("cmimc25", 40, _MATHARENA, 32),
    _record("gsm8k", 1319, "MIT", 1, files=_files("gsm8k_test"), hub=_GSM8K_HUB),
    _record(
        "math",
        4989,
        "MIT",
        1,
        files=_files("math500", "math_test4500"),
        contains=("math500",),
        note=_NO_REPEATS,
    ),
]

BENCHMARKS: dict[str, Benchmark] = {record.name: record for record in _RECORDS}
