"""The adapter methods, one file per family."""
