"""Engines that generate: vLLM in the process, vLLM servers, transformers."""
