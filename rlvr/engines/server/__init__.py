"""vLLM servers: the engine that speaks to them, and `rlvr serve` that starts one."""
