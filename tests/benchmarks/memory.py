"""Peak memory of log-probabilities, entropies and their gradient: chunked head against all logits.

One process per case, so that one case's peak cannot hide in another's. Memory is the growth of the
resident peak over what the process held before the step. Run: python -m tests.benchmarks.memory
[--json FILE] [--lengths 512 4096]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

VOCAB_SIZE, HIDDEN_SIZE = 152_000, 256
LENGTHS = (512, 1024, 2048, 4096, 8192)
METHODS = ("naive", "ours")


def measure(method: str, length: int) -> dict[str, float]:
    """Seconds and peak GiB of one forward and backward in this process."""
    import torch

    from rlvr.policy.logprob_head import token_logprobs

    torch.manual_seed(0)
    head = torch.nn.Linear(HIDDEN_SIZE, VOCAB_SIZE, bias=False)
    head.weight.grad = torch.zeros_like(head.weight)
    hidden_TH = torch.randn(length, HIDDEN_SIZE, requires_grad=True)
    hidden_TH.grad = torch.zeros_like(hidden_TH)
    targets_T = torch.randint(VOCAB_SIZE, (length,))
    before, start = peak_gib(), time.perf_counter()
    if method == "ours":
        logp_T, entropy_T = token_logprobs(hidden_TH, head, targets_T, 1.0, VOCAB_SIZE)
    else:
        logprobs_TV = head(hidden_TH).log_softmax(dim=-1)
        logp_T = logprobs_TV.gather(1, targets_T.unsqueeze(1)).squeeze(1)
        with torch.no_grad():
            entropy_T = -(logprobs_TV.exp() * logprobs_TV).sum(dim=-1)
    logp_T.mean().backward()
    return {
        "peak_gib": peak_gib() - before,
        "seconds": time.perf_counter() - start,
        "entropy": float(entropy_T.detach().mean()),
    }


def peak_gib() -> float:
    """The most that this process has been resident with."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_process(method: str, length: int) -> dict[str, float] | None:
    """`measure` in a process of its own; None where this machine has too little memory."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if method == "naive" and 4.5 * length * VOCAB_SIZE * 4 > available:
        return None
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--case", method, str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes it to --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.case:
        print(json.dumps(measure(args.case[0], int(args.case[1]))))
        return
    print(f"vocabulary {VOCAB_SIZE}, hidden {HIDDEN_SIZE}, float32")
    print("tokens  naive GiB    s   ours GiB    s   ours / naive")
    results = []
    for length in args.lengths:
        cases = {method: in_process(method, length) for method in METHODS}
        results.append({"tokens": length} | cases)
        naive, ours = cases["naive"], cases["ours"]
        assert ours is not None
        left = f"{naive['peak_gib']:9.2f} {naive['seconds']:5.1f}" if naive else " too large     "
        ratio = f"{ours['peak_gib'] / naive['peak_gib']:8.3f}" if naive else ""
        print(f"{length:6} {left} {ours['peak_gib']:9.2f} {ours['seconds']:5.1f} {ratio}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"vocab_size": VOCAB_SIZE, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
