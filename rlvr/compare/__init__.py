"""Comparison of methods on equal terms: plan, runs, learning rates, statistics, report files."""
