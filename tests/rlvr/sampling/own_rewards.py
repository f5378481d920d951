"""Functions for [[reward.extra]], right and wrong ones."""

import asyncio
import math
import time


def answer_len(problem, response, verdict, metadata):
    return len(verdict.answer or "") + metadata["bonus"]


async def told(problem, response, verdict, metadata):
    await asyncio.sleep(0)
    return problem == "What is 1 + 1?" and response.startswith("so") and verdict.reason == "correct"


def odd(problem, response, verdict, metadata):
    """Fails in a way that the response names."""
    match response.split()[-1]:
        case "raise":
            raise ValueError("no such word")
        case "hang":
            while True:
                pass
        case "sleep":
            time.sleep(1000)
        case "nan":
            return math.nan
        case "inf":
            return -math.inf
        case "none":
            return None
        case "text":
            return "1.0"
        case "memory":
            return len([0] * 10**10)
        case "depth":
            return odd(problem, response, verdict, metadata)
        case "exit":
            raise SystemExit(3)
        case "kill":
            import os

            os._exit(1)
    return 2


def for_trl(completions, prompts, bonus, **kwargs):
    kwargs["log_metric"]("anything", 1.0)
    assert kwargs.keys() == {"completion_ids", "answer", "problem", "log_metric", "log_extra"}
    last = [one if isinstance(one, str) else one[-1]["content"] for one in completions]
    return [
        None if text == "skip" else math.nan if text == "nan" else len(text) + extra + len(ids)
        for text, extra, ids in zip(last, bonus, kwargs["completion_ids"], strict=True)
    ]


async def for_trl_async(prompts, completions):
    return [float(isinstance(prompts[0], list))] * len(completions)


def too_few(prompts, completions, **kwargs):
    return [1.0]


def of_two(problem, response):
    return 0.0


NOT_A_FUNCTION = 3
