"""Agreement with math-verify and with lighteval, on generated responses to real problems.

    python tests/benchmarks/eval_agreement.py [--peer lighteval --peer-path DIR] [--json FILE]

Each kind of response is right or wrong by construction, so a disagreement can be judged: the table
counts for each kind how often either scorer follows the construction, and the list shows where they
differ. lighteval's `pass@k` for math parses gold and response with expression and LaTeX extraction
and compares at 6 digits; math-verify is given the same. The gold is passed as `\\boxed{gold}`.
lighteval is not among the pinned packages, since it pins another LaTeX parser: install it with
`pip install --no-deps --target DIR` and give `--peer-path DIR`. The rules of Qwen2.5-Math are not
on PyPI; evalscope 1.0.0 ships a copy: install it and word2number the same way, and give
`--peer-path DIR/evalscope/metrics:DIR`.
"""

import argparse
import json
import random
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

from eval.benchmarks import Question, load_benchmark
from rewards import Gold, Verifier

BENCHMARKS = ("aime25", "amc23", "math500", "minerva", "olympiadbench", "hmmt25", "cmimc25")
INTRO = "We set $x = 3$ and simplify step by step. "


def as_given(q: Question) -> str:
    return f"{INTRO}The answer is $\\boxed{{{q.answer}}}$."


def spelled(q: Question) -> str | None:
    """The gold with other fraction commands, brackets and spaces."""
    text = q.answer.replace("\\frac", "\\dfrac")
    if "\\left" not in text:
        text = text.replace("(", "\\left( ").replace(")", "\\right) ")
    return f"{INTRO}\\[ \\boxed{{{text}\\,}} \\]" if text != q.answer else None


def as_quotient(q: Question) -> str | None:
    """An integer gold as a fraction that is not in lowest terms."""
    if not re.fullmatch(r"-?\d{1,9}", q.answer):
        return None
    return f"{INTRO}\\boxed{{\\frac{{{3 * int(q.answer)}}}{{3}}}}"


def unboxed(q: Question) -> str:
    return f"{INTRO}Therefore, the final answer is: ${q.answer}$. I hope it is correct"


def corrected(q: Question) -> str:
    """A wrong box, taken back, then the right one."""
    return f"{INTRO}So \\boxed{{-98765}}. Wait, that is wrong. It is \\boxed{{{q.answer}}}."


def changed_digit(q: Question) -> str | None:
    """The gold with one digit replaced."""
    digits = [m.start() for m in re.finditer(r"[1-9]", q.answer)]
    if not digits:
        return None
    at = digits[len(digits) // 2]
    other = str(int(q.answer[at]) % 9 + 1)
    return f"{INTRO}\\boxed{{{q.answer[:at]}{other}{q.answer[at + 1 :]}}}"


def both(q: Question) -> str:
    """Two answers at once, one of them right."""
    return f"{INTRO}\\boxed{{{q.answer}}} or \\boxed{{-98765}}"


def taken_back(q: Question) -> str:
    """The right box, then a wrong one."""
    return f"{INTRO}First we thought \\boxed{{{q.answer}}}. In fact it is \\boxed{{-98765}}."


def no_answer(_: Question) -> str:
    return f"{INTRO}There are 12 cases and the first of them gives"


KINDS = {
    as_given: True,
    spelled: True,
    as_quotient: True,
    unboxed: False,
    corrected: True,
    changed_digit: False,
    both: False,
    taken_back: False,
    no_answer: False,
}
"""Whether the response earns the point under the rule that the last box is the answer."""


def by_math_verify(response: str, gold: str) -> bool:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    targets = [ExprExtractionConfig(), LatexExtractionConfig()]
    golds = parse(f"\\boxed{{{gold}}}", targets)
    return verify(golds, parse(response, targets), float_rounding=6)


def by_lighteval(response: str, gold: str) -> bool:
    from lighteval.metrics.dynamic_metrics import MultilingualExtractiveMatchMetric
    from lighteval.metrics.utils.extractive_match_utils import (
        ExprExtractionConfig,
        LatexExtractionConfig,
    )
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import Doc

    targets = [ExprExtractionConfig(), LatexExtractionConfig()]
    metric = MultilingualExtractiveMatchMetric(
        gold_extraction_target=targets, pred_extraction_target=targets, precision=6
    )
    doc = Doc(query="", choices=[f"\\boxed{{{gold}}}"], gold_index=0)
    return bool(metric.compute(doc, ModelResponse(text=[response])))


def by_qwen_math(response: str, gold: str) -> bool:
    """The rules of Qwen2.5-Math's evaluation, in the copy that evalscope 1.0.0 ships."""
    from math_parser import extract_answer, math_equal, strip_answer_string  # pyright: ignore

    return bool(math_equal(extract_answer(response), strip_answer_string(gold)))


PEERS = {"math-verify": by_math_verify, "lighteval": by_lighteval, "qwen2.5-math": by_qwen_math}


def main() -> None:
    parser = argparse.ArgumentParser(description="Agreement with another scorer.")
    parser.add_argument("--peer", choices=PEERS, default="math-verify")
    parser.add_argument("--peer-path", metavar="DIRS", default="", help="folders of the peer")
    parser.add_argument("--per-kind", type=int, default=150)
    parser.add_argument("--json", metavar="FILE", help="write table and disagreements there")
    args = parser.parse_args()
    questions = [q for name in BENCHMARKS for q in load_benchmark(name).questions]
    random.Random(0).shuffle(questions)
    table: dict[str, Counter] = defaultdict(Counter)
    differing = []
    with Verifier(timeout_s=5.0) as verifier:
        verifier.verify("\\boxed{\\sin^2 x}", "1 - \\cos^2 x")  # workers start on the usual path
        sys.path[:0] = filter(None, args.peer_path.split(":"))
        for make, right in KINDS.items():
            made = [(q, text) for q in questions if (text := make(q))][: args.per_kind]
            verdicts = verifier.verify_many([(text, Gold.parse(q.answer)) for q, text in made])
            for (q, text), verdict in zip(made, verdicts, strict=True):
                theirs = PEERS[args.peer](text, q.answer)
                row = table[make.__name__]
                row["responses"] += 1
                row["ours as built"] += verdict.correct == right
                row["peer as built"] += theirs == right
                row["agree"] += verdict.correct == theirs
                if verdict.correct != theirs:
                    answer = f"{q.answer} | {verdict.answer}"
                    differing.append([make.__name__, answer, verdict.reason, theirs])
    for name, row in table.items():
        print(f"{name:14} " + " ".join(f"{key} {value}" for key, value in row.items()))
    for line in differing:
        print(*line, sep=" | ")
    if args.json:
        content = {"table": table, "disagreements": differing}
        Path(args.json).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
