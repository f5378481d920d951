"""RLVR on math: GRPO/DAPO with vLLM rollouts, verifiable rewards and comparable adapters."""

__version__ = "0.1.0"
