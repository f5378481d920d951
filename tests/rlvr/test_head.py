"""The chunked head equals all logits at once, in values, gradients and in far less memory."""

import pytest
import torch

from rlvr import head as head_module
from rlvr.head import token_logprobs
from tests.benchmarks.memory import in_process

T, H, V = 11, 6, 17


def both(chunk_rows, monkeypatch, temperature=0.7, entropy_grad=False):
    """[(log-probabilities, entropies, gradients of hidden states and weight)]: chunked, at once."""
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", chunk_rows * V)
    torch.manual_seed(0)
    hidden, targets = torch.randn(T, H), torch.randint(V, (T,))
    weight, mix = torch.randn(V, H), torch.randn(2, T)
    results = []
    for chunked in (True, False):
        head = torch.nn.Linear(H, V, bias=False)
        head.weight.data.copy_(weight)
        leaf = hidden.clone().requires_grad_()
        if chunked:
            logp, entropy = token_logprobs(leaf, head, targets, temperature, V, entropy_grad)
        else:
            logprobs = (head(leaf) / temperature).log_softmax(-1)
            logp, entropy = logprobs[torch.arange(T), targets], -(logprobs.exp() * logprobs).sum(-1)
        loss = (mix[0] * logp).sum()
        if entropy_grad:
            loss = loss + (mix[1] * entropy).sum()
        loss.backward()
        results.append((logp.detach(), entropy.detach(), leaf.grad, head.weight.grad))
    return results


@pytest.mark.parametrize("entropy_grad", [False, True])
@pytest.mark.parametrize("chunk_rows", [1, 4, 11, 100])
def test_every_chunk_size_equals_all_logits_at_once(chunk_rows, entropy_grad, monkeypatch):
    chunked, at_once = both(chunk_rows, monkeypatch, entropy_grad=entropy_grad)
    for ours, theirs in zip(chunked, at_once, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


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
