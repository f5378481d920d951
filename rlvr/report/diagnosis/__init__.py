"""What the metrics of a run say about it, in plain words."""
