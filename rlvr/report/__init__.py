"""One HTML page about a run, a comparison or an analysis, and the same page live."""
