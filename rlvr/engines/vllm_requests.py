"""What vLLM is asked for a response, and a response from what it gives."""

from __future__ import annotations

from typing import Any

from rlvr.engines.engine import Request, Response, SamplingParams


def vllm_params(sampling: SamplingParams, request: Request) -> Any:
    """vLLM's SamplingParams of one request."""
    from vllm import SamplingParams as VllmParams
    from vllm.sampling_params import RequestOutputKind

    return VllmParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        max_tokens=sampling.max_len - len(request.begun_ids),
        stop_token_ids=list(sampling.stop_token_ids),
        seed=request.seed,
        # 0: of the drawn token alone
        logprobs=0 if sampling.logprobs else None,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def scoring_params() -> Any:
    """vLLM's SamplingParams of a request whose given tokens are scored."""
    from vllm import SamplingParams as VllmParams
    from vllm.sampling_params import RequestOutputKind

    return VllmParams(
        # vLLM takes no fewer; nobody reads the token
        max_tokens=1,
        prompt_logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def response_of(output: Any) -> Response:
    """The response in a finished output of vLLM."""
    token_ids = list(output.token_ids)
    logprobs = [] if output.logprobs is None else flat_logprobs(output.logprobs, len(token_ids))
    return Response(token_ids, logprobs, truncated=output.finish_reason == "length")


def flat_logprobs(found: Any, num_tokens: int) -> list[float]:
    """The log-probability of each token, as vLLM has them in one list: two objects per token would
    be millions for the garbage collector in a step."""
    values = [] if found is None else found.logprobs
    assert len(values) == num_tokens, (len(values), num_tokens)
    return values
