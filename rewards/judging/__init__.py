"""The judge: what settles an answer at once, what a worker process settles, and the fallback."""
