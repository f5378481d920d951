"""Supervised fine-tuning of an existing model by any adapter method."""
