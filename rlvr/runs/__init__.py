"""A run folder: its lock, metrics, manifest, checkpoints and tracker."""
