"""Engines that generate, and the weights' way to them."""
