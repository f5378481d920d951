"""The supervised warm start of a tiny policy made from nothing."""
