"""Sharing what was trained: `rlvr push`, and the model card that goes with it."""
