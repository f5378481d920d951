"""Finds evaluation problems in training data: equal texts, near texts, equal answers.

Texts are compared as words: LaTeX commands are dropped, runs of letters and runs of digits are
words, a Chinese character is one. A translation or a paraphrase is not found, so every count is a
lower bound. Time is linear in the training text.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from eval.benchmarks import LoadedBenchmark, Question
from eval.votes import FORMS, Judge

GRAM_WORDS = 10
NEAR = 0.6
"""Share of a problem's word 10-grams in one training row from which the pair is listed."""
SURE = 0.9
"""The same from which the row counts as contaminated whatever its answer is."""

_COMMAND = re.compile(r"\\[a-zA-Z]+")
# Chinese has no spaces: each character is a word, else a sentence would be one
_WORD = re.compile(r"[\u4e00-\u9fff]|[^\W\d_\u4e00-\u9fff]+|\d+")
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle|quad|qquad|[,;:! ])|[\s$]+")

Gram = tuple[str, ...]
EvalKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training row and an evaluation problem that share text.

    row: position of the training row, from 0. score: share of the problem's distinct word 10-grams
    that the row contains. exact: equal but for layout. contaminated: exact, or score >= 0.9, or
    score >= 0.6 with an equal answer.
    """

    row: int
    train_id: str
    benchmark: str
    eval_id: str
    score: float
    exact: bool
    same_answer: bool
    contaminated: bool


@dataclass(frozen=True, slots=True)
class BenchmarkOverlap:
    """How much of one benchmark a training set contains, in distinct problems.

    near: contaminated but in no row exactly. covered: 90% of the 10-grams occur somewhere in the
    training set, in whatever rows; this also finds problems that were split or merged.
    """

    benchmark: str
    problems: int
    exact: int
    near: int
    covered: int
    pairs: int


@dataclass(frozen=True, slots=True)
class ContaminationReport:
    """All overlaps of a training set with some benchmarks."""

    num_rows: int
    overlaps: tuple[Overlap, ...]
    benchmarks: tuple[BenchmarkOverlap, ...]

    def contaminated_rows(self, *, every_pair: bool = False) -> set[int]:
        """Rows to leave out; every_pair also takes the near ones with another answer."""
        return {o.row for o in self.overlaps if every_pair or o.contaminated}

    def summary(self) -> dict:
        """Counts for a run's manifest."""
        return {
            "train_rows": self.num_rows,
            "contaminated_rows": len(self.contaminated_rows()),
            "benchmarks": [asdict(b) for b in self.benchmarks],
        }


def check_contamination(
    train: Iterable[Question], benchmarks: Sequence[LoadedBenchmark], judge: Judge
) -> ContaminationReport:
    """Every overlap between training rows and benchmark problems. judge compares the answers."""
    problems = {(b.name, q.id): q for b in benchmarks for q in b.questions}
    index = _Index(problems)
    # which of a problem's n-grams occurred anywhere: finds problems split over several rows
    covered: dict[EvalKey, set[Gram]] = defaultdict(set)
    found: list[tuple[int, Question, EvalKey, float, bool]] = []
    num_rows = 0
    for row, question in enumerate(train):
        num_rows += 1
        for key, score, exact in index.look_up(question.problem, covered):
            found.append((row, question, key, score, exact))
    # in one call, since the verifier's workers judge a batch in parallel
    same = _same_answers([(q, problems[key]) for _, q, key, _, _ in found], judge)
    overlaps = tuple(
        Overlap(
            row,
            question.id,
            *key,
            score=round(score, 3),
            exact=exact,
            same_answer=equal,
            contaminated=exact or score >= SURE or equal,
        )
        for (row, question, key, score, exact), equal in zip(found, same, strict=True)
    )
    counts = tuple(_count(b, overlaps, index, covered) for b in benchmarks)
    return ContaminationReport(num_rows, overlaps, counts)


def words(text: str) -> list[str]:
    """The words of a problem that n-grams are made of."""
    return _WORD.findall(_COMMAND.sub(" ", text.lower()))


def grams(text: str) -> set[Gram]:
    """The distinct word 10-grams of a text; empty for a shorter one."""
    return set(_windows(words(text)))


class _Index:
    """Evaluation problems by their 10-grams and by their text without layout."""

    def __init__(self, problems: dict[EvalKey, Question]):
        self.by_gram: dict[Gram, list[EvalKey]] = defaultdict(list)
        self.by_text: dict[str, list[EvalKey]] = defaultdict(list)
        self.num_grams: dict[EvalKey, int] = {}
        for key, question in problems.items():
            own = grams(question.problem)
            self.num_grams[key] = len(own)
            self.by_text[bare(question.problem)].append(key)
            for gram in own:
                self.by_gram[gram].append(key)

    def look_up(
        self, text: str, covered: dict[EvalKey, set[Gram]]
    ) -> Iterator[tuple[EvalKey, float, bool]]:
        """(problem, score, exact) of the problems near this text; notes the grams seen."""
        equal = self.by_text.get(bare(text), ())
        hits: Counter[EvalKey] = Counter()
        # the index is over the few evaluation problems: time grows with the training text only
        for gram in set(_windows(words(text))) & self.by_gram.keys():
            for key in self.by_gram[gram]:
                hits[key] += 1
                covered[key].add(gram)
        for key in dict.fromkeys([*equal, *hits]):
            score = hits[key] / self.num_grams[key] if self.num_grams[key] else 0.0
            if key in equal or score >= NEAR:
                # an equal text may be shorter than one n-gram and then has no score of its own
                yield key, max(score, float(key in equal)), key in equal


def _windows(tokens: list[str]) -> Iterator[Gram]:
    return zip(*(tokens[i:] for i in range(GRAM_WORDS)), strict=False)


def bare(text: str) -> str:
    """The text without what changes only its look."""
    return _LAYOUT.sub("", text.lower().replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac"))


def _same_answers(pairs: Sequence[tuple[Question, Question]], judge: Judge) -> list[bool]:
    """Whether any answer of the first problem equals any of the second's, for every pair."""
    form, equal = FORMS[judge.answer_mode], [False] * len(pairs)
    asked = [(i, answer) for i, (question, _) in enumerate(pairs) for answer in question.answers]
    golds = [known.answers if known.others else known.answer for _, known in pairs]
    verdicts = judge.verify_many([(form.replace("%s", a), golds[i]) for i, a in asked])
    for (i, answer), verdict in zip(asked, verdicts, strict=True):
        written = (text.strip() for text in pairs[i][1].answers)
        # equal texts count too, where no gold can be parsed from them
        equal[i] = equal[i] or verdict.correct or answer.strip() in written
    return equal


def _count(
    benchmark: LoadedBenchmark,
    overlaps: Sequence[Overlap],
    index: _Index,
    covered: dict[EvalKey, set[Gram]],
) -> BenchmarkOverlap:
    name = benchmark.name
    own = [o for o in overlaps if o.benchmark == name]
    exact = {o.eval_id for o in own if o.exact}
    near = {o.eval_id for o in own if o.contaminated} - exact
    # by grams seen anywhere, which no single pair shows
    full = [
        key
        for key, seen in covered.items()
        if key[0] == name and len(seen) >= SURE * index.num_grams[key]
    ]
    return BenchmarkOverlap(
        name, len(benchmark.questions), len(exact), len(near), len(full), len(own)
    )
