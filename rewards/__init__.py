"""Verifiable math rewards: extract, normalise, compare; bounded and killable."""
