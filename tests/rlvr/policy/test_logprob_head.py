"""The chunked head equals all logits at once, in values, gradients and in far less memory."""

import pytest
import torch

from rlvr.policy.logprob_head import PLAIN, LogitTransform, token_logprobs
from tests.benchmarks.memory import in_process

T, H, V = 11, 6, 17


def both(chunk_len, temperature=0.7, entropy_grad=False, trained=True, bias=False, transform=PLAIN):
    """[(log-probabilities, entropies, gradients of hidden states and weight)]: chunked, at once."""
    torch.manual_seed(0)
    hidden, targets = torch.randn(T, H), torch.randint(V - 4, (T,))
    weight, mix = torch.randn(V, H), torch.randn(2, T)
    results = []
    for chunked in (True, False):
        head = torch.nn.Linear(H, V, bias=bias).requires_grad_(trained)
        head.weight.data.copy_(weight)
        if bias:
            head.bias.data.fill_(0.5)
        leaf = hidden.clone().requires_grad_()
        if chunked:
            logp, entropy = token_logprobs(
                leaf, head, targets, temperature, V, entropy_grad, chunk_len, transform
            )
        else:
            logits = head(leaf)[:, : transform.num_tokens] * transform.scale
            if transform.cap:
                logits = transform.cap * torch.tanh(logits / transform.cap)
            logprobs = (logits / temperature).log_softmax(-1)
            logp, entropy = logprobs[torch.arange(T), targets], -(logprobs.exp() * logprobs).sum(-1)
        loss = (mix[0] * logp).sum()
        if entropy_grad:
            loss = loss + (mix[1] * entropy).sum()
        loss.backward()
        results.append((logp.detach(), entropy.detach(), leaf.grad, head.weight.grad))
        assert (head.weight.grad is not None) == trained
    return results


@pytest.mark.parametrize(
    "options", [{}, {"entropy_grad": True}, {"trained": False}, {"bias": True}]
)
@pytest.mark.parametrize("chunk_len", [1, 4, 11, 100])
def test_every_chunk_size_equals_all_logits_at_once(chunk_len, options):
    chunked, at_once = both(chunk_len, **options)
    for ours, theirs in zip(chunked, at_once, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"entropy_grad": True}, {"bias": True}])
@pytest.mark.parametrize(
    "transform",
    [
        LogitTransform(scale=0.25),
        LogitTransform(scale=3.0),
        LogitTransform(cap=2.0),
        LogitTransform(scale=1.5, cap=5.0, num_tokens=V - 4),
    ],
)
def test_values_and_gradients_go_through_what_a_model_does_to_its_logits(transform, options):
    chunked, at_once = both(4, transform=transform, **options)
    for ours, theirs in zip(chunked, at_once, strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("master", [torch.float32, torch.bfloat16])
def test_bfloat16_computation_keeps_the_gradients_of_sure_tokens(master):
    torch.manual_seed(0)
    head = torch.nn.Linear(H, V, bias=False)
    exact = head.weight.detach().to(torch.bfloat16).double().requires_grad_()
    hidden = (20 * head.weight[:T]).detach().to(torch.bfloat16)
    leaf, wide = hidden.clone().requires_grad_(), hidden.double().requires_grad_()
    head.to(master)
    targets = torch.arange(T)
    with torch.autocast("cpu", torch.bfloat16):
        token_logprobs(leaf, head, targets, 1.0, V, chunk_len=4)[0].sum().backward()
    (wide @ exact.T).log_softmax(-1)[torch.arange(T), targets].sum().backward()
    assert head.weight.grad.dtype == master
    for ours, theirs in ((leaf.grad, wide.grad), (head.weight.grad, exact.grad)):
        assert (ours.double() - theirs).norm() < 0.02 * theirs.norm()


def test_entropies_carry_no_gradient_unless_asked():
    head = torch.nn.Linear(H, V)
    hidden, targets = torch.randn(T, H, requires_grad=True), torch.zeros(T, dtype=torch.long)
    assert not token_logprobs(hidden, head, targets, 1.0, V)[1].requires_grad
    assert token_logprobs(hidden, head, targets, 1.0, V, entropy_grad=True)[1].requires_grad


@pytest.mark.slow
def test_a_thousand_tokens_take_less_than_half_the_memory_of_all_logits():
    naive, ours = in_process("naive", 1024), in_process("ours", 1024)
    if naive is None or ours is None:
        pytest.skip("less than 3 GiB of memory are free")
    assert ours["peak_gib"] <= naive["peak_gib"] / 2
    assert ours["entropy"] == pytest.approx(naive["entropy"], rel=1e-5)
