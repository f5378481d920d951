"""Results, comparisons and contamination as tables."""

from eval.compare import OVERALL, PairedComparison, Report
from eval.contamination import ContaminationReport
from eval.metrics import guess
from eval.reports.tables import Table, percent

INTERVALS = (
    "[low, high]: 95% intervals over problems. results.json also has them over samples and both."
)


def results_tables(results: dict) -> list[Table]:
    """Tables of what `score` returns: benchmarks, then subjects and levels."""
    rows, notes = [], [INTERVALS]
    for name, r in results["benchmarks"].items():
        total = r["source"]["count"]
        shown = str(r["problems"]) if r["problems"] == total else f"{r['problems']} of {total}"
        length = r["length"]
        rows.append(
            (
                name,
                shown,
                str(r["k"]),
                percent(r["avg@k"]),
                percent(r["pass@k"]),
                percent(r["maj@k"]),
                f"{100 * r['format_rate']['value']:.1f}",
                # None: some response does not say why it ended
                "-" if r["truncated_frac"] is None else f"{100 * r['truncated_frac']['value']:.1f}",
                f"{length['mean']['value']:.0f}",
            )
        )
        notes += _remarks(name, r, total)
    overall = results["overall"]
    if len(rows) > 1:
        rows.append(("mean", "", "", percent(overall["avg@k"]), *[""] * 5))
        notes.append(f"mean: {overall['avg@k']['formed']}.")
    columns = ("benchmark", "problems", "k", "avg@k", "pass@k", "maj@k", "format", "cut", "length")
    return [Table("Scores in percent", columns, tuple(rows), tuple(notes)), *_part_tables(results)]


def comparison_tables(report: Report) -> list[Table]:
    """Tables of what `compare` returns: benchmarks, subjects and levels, problems."""
    columns = ("benchmark", "a", "b", "problems", "avg@k a", "avg@k b", "b - a", "p", "p Holm")
    rows = tuple(_comparison_row(c) for c in report.comparisons)
    notes = [
        "b - a: points with 95% interval over problems (BCa bootstrap). p: paired permutation over "
        f"problems. Holm: over {report.family}."
    ]
    if any(c.benchmark == OVERALL for c in report.comparisons):
        notes.append(f"{OVERALL}: every problem weighs the same; outside the correction.")
    main = Table("Paired comparison", columns, rows, tuple(notes))
    parts = tuple(_comparison_row(c) for c in report.parts)
    exploratory = ("p-values by subject and level are not corrected.",)
    return [main, Table("By subject and level", columns, parts, exploratory), _problems(report)]


def contamination_table(report: ContaminationReport) -> Table:
    """How much of each benchmark the training rows contain."""
    rows = tuple(
        (b.benchmark, str(b.problems), str(b.exact), str(b.near), str(b.covered), str(b.pairs))
        for b in report.benchmarks
    )
    dropped = len(report.contaminated_rows())
    notes = (
        "exact: equal but for layout. near: 90% of the problem's word 10-grams in one row, or 60% "
        "and the same answer. covered: 90% somewhere in the training set.",
        "pairs: all of 60% and more, whatever the answer. A lower bound: paraphrases and "
        "translations are not found.",
        f"{dropped} of {report.num_rows} training rows are contaminated.",
    )
    columns = ("benchmark", "problems", "exact", "near", "covered", "pairs")
    return Table("Evaluation problems in the training set", columns, rows, notes)


def _remarks(name: str, result: dict, total: int) -> list[str]:
    remarks = []
    missing = result["missing"]
    if missing["count"]:
        some = ", ".join(missing["ids"])
        remarks.append(f"{name}: {missing['count']} of {total} problems have no sample ({some}).")
    fewest, most = result["samples_per_problem"]
    if fewest != most:
        remarks.append(f"{name}: {fewest} to {most} samples per problem; avg@k uses all of them.")
    # verdicts that are failures of the verifier: the score is a lower bound by as much
    ours = {
        reason: result["reasons"][reason]["count"]
        for reason in ("timeout", "worker_died", "gold_invalid")
        if reason in result["reasons"]
    }
    if ours:
        listed = ", ".join(f"{count} {reason}" for reason, count in ours.items())
        remarks.append(f"{name}: not decided, counted as not correct: {listed}.")
    if result["maj@k"]["ties"]:
        ties = result["maj@k"]["ties"]
        remarks.append(
            f"{name}: {ties} votes tied; a tie scores the share of leaders that is right."
        )
    guessed = guess(result.get("top_answer_frac"))
    if guessed is not None:
        remarks.append(f"{name}: {guessed}: it guesses.")
    return remarks


def _part_tables(results: dict) -> list[Table]:
    tables = []
    for part in ("subject", "level"):
        rows = tuple(
            (name, value, str(entry["problems"]), percent(entry["avg@k"]))
            for name, r in results["benchmarks"].items()
            for value, entry in r.get(f"by_{part}", {}).items()
        )
        tables.append(Table(f"By {part}", ("benchmark", part, "problems", "avg@k"), rows))
    return tables


def _comparison_row(c: PairedComparison) -> tuple[str, ...]:
    d = c.difference
    name = f"{c.benchmark}, {c.part}" if c.part else c.benchmark
    return (
        name,
        c.a,
        c.b,
        str(c.num_problems),
        f"{100 * c.value_a:.1f}",
        f"{100 * c.value_b:.1f}",
        f"{100 * d.value:+.1f} [{100 * d.lo:+.1f}, {100 * d.hi:+.1f}]",
        f"{c.p.value:.4f}",
        "-" if c.p_holm is None else f"{c.p_holm:.4f}",
    )


def _problems(report: Report) -> Table:
    """Problems on which the results differ, the largest difference first."""

    def spread(row: dict) -> float:
        return max(row["avg@k"].values()) - min(row["avg@k"].values())

    # problems that all results solve, or none does, say nothing about the difference
    differing = sorted((r for r in report.per_problem if spread(r) > 0), key=spread, reverse=True)
    rows = tuple(
        (
            row["benchmark"],
            row["id"],
            *(f"{row['avg@k'][n]:.3f}" if n in row["avg@k"] else "-" for n in report.names),
        )
        for row in differing
    )
    same = len(report.per_problem) - len(differing)
    note = f"{same} problems on which all results agree are left out."
    return Table("Problems", ("benchmark", "id", *report.names), rows, (note,))
