"""Benchmarks, scoring and intervals. Import from its modules: `from eval.score import score`."""
