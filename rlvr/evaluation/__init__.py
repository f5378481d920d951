"""`rlvr eval --model`: samples responses to benchmarks with an engine, then scores them."""
