"""The chunked head equals all logits at once, in values, gradients and in far less memory."""

import pytest
import torch

from rlvr.policy.logprob_head import (
    BLOCK_ROWS,
    PLAIN,
    LogitTransform,
    float32_product,
    head_outputs,
    token_logprobs,
)
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


WIDE = BLOCK_ROWS + 100
"""A vocabulary of more than one block."""


def real_sized(dtype, bias=False):
    """(hidden states, head, targets) in 16 bits whose logits go up to 30, as a pretrained model's
    do."""
    torch.manual_seed(0)
    head = torch.nn.Linear(64, WIDE, bias=bias).to(dtype)
    hidden = torch.randn(T, 64)
    hidden *= 30 / float((hidden @ head.weight.float().T).abs().max())
    targets = (hidden @ head.weight.float().T).topk(3).indices[:, 2]
    return hidden.to(dtype).requires_grad_(), head, targets


@pytest.mark.parametrize("options", [{}, {"entropy_grad": True}, {"bias": True}])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_heads_give_logits_that_are_not_rounded(dtype, options):
    """Against the same 16-bit numbers in float64, on logits that 16 bits hold to 0.06."""
    hidden, head, targets = real_sized(dtype, options.get("bias", False))
    wide, weight = hidden.detach().double().requires_grad_(), head.weight.double().detach()
    weight.requires_grad_()
    logits = wide @ weight.T + (0 if head.bias is None else head.bias.double())
    rounded = logits.to(dtype).double().log_softmax(-1)[torch.arange(T), targets]
    expected = logits.log_softmax(-1)[torch.arange(T), targets]
    with torch.autocast("cpu", dtype):
        found, _ = token_logprobs(
            hidden, head, targets, 1.0, WIDE, options.get("entropy_grad", False), chunk_len=4
        )
    assert float((found - expected).abs().max()) < 1e-5
    assert float((rounded - expected).abs().max()) > 1e-3, "else this test shows nothing"
    found.sum().backward()
    expected.sum().backward()
    for ours, theirs in ((hidden.grad, wide.grad), (head.weight.grad, weight.grad)):
        assert ours.dtype == dtype
        assert (ours.double() - theirs).norm() < 0.02 * theirs.norm()


def test_float32_heads_keep_every_bit():
    hidden, head, _ = real_sized(torch.float32)
    assert torch.equal(float32_product(hidden, head.weight), hidden @ head.weight.T)
    assert torch.equal(head_outputs(hidden, head), head(hidden))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_gpu_multiplies_16_bits_into_float32(dtype):
    hidden, head, _ = real_sized(dtype)
    found = float32_product(hidden.cuda(), head.weight.cuda()).cpu()
    expected = hidden.double() @ head.weight.double().T
    assert found.dtype == torch.float32
    assert float((found - expected).abs().max()) < 1e-4


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
