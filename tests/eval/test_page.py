"""report.html: a bar per problem, everything escaped, nothing loaded."""

import json
import re

from eval.generations import read_generations
from eval.reports.page import page
from eval.score import score


def test_the_page_has_a_bar_per_problem_and_loads_nothing(
    sums_file, write_generations, random_kinds, verifier, tmp_path
):
    path = write_generations(random_kinds(0))
    score(read_generations(path), verifier, benchmarks=[f"sums={sums_file}"], out=tmp_path / "o")
    text = (tmp_path / "o" / "report.html").read_text()
    rows = [json.loads(r) for r in (tmp_path / "o" / "problems.jsonl").open()]
    for row in rows:
        assert f"{row['id']} ({row['subject']}, {row['level']}): {row['c']} of 4 right" in text
    assert text.count('class="bar"') == 12
    heights = [float(h) for h in re.findall(r'class="bar".*?height="([\d.]+)"', text)]
    assert heights == [round(70 * row["c"] / row["n"], 1) for row in rows]
    assert "no_answer" in text
    assert not re.search(r"https?:|<script|<link|@import|url\(|src=|\bon\w+=", text)


def test_hostile_names_stay_text(sums_file, write_generations, random_kinds, verifier):
    evil = '<script>alert("x")</script>'
    from eval.score import score_problems

    path = write_generations(random_kinds(0))
    results, rows = score_problems(
        read_generations(path), verifier, benchmarks=[f"sums={sums_file}"]
    )
    rows[0]["id"], rows[0]["subject"] = evil, '"><img src=x>'
    results["benchmarks"] = {evil: results["benchmarks"]["sums"]}
    for row in rows:
        row["benchmark"] = evil
    text = page(results, rows, title=evil)
    assert "<script" not in text
    assert "<img" not in text
