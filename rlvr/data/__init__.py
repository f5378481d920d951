"""Datasets to problems and examples: rows, chat templates, contamination."""
