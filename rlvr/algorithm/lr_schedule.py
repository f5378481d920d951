"""The learning rate as a pure function of the step: a resumed run needs no scheduler state."""

import math

from rlvr.config.train import OptimConfig


def lr_at(step: int, config: OptimConfig, num_steps: int) -> float:
    """The learning rate of step `step` (from 0): linear warm-up, then the schedule's shape.

    wsd (warmup-stable-decay) stays at the peak and falls linearly over the last decay_frac of all
    steps, to lr / decay steps in the last one. Source: MiniCPM, 2404.06395.
    """
    if step < config.warmup_steps:
        # step + 1: a first step at 0 would cost its rollouts and train nothing
        return config.lr * (step + 1) / config.warmup_steps
    # below 1 in the last step too, which would train nothing at a rate of 0
    progress = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    match config.schedule:
        case "constant":
            return config.lr
        case "linear":
            return config.lr * (1 - progress)
        case "cosine":
            return config.lr * (1 + math.cos(math.pi * progress)) / 2
        case "wsd":
            decay_steps = max(1, round(config.decay_frac * num_steps))
            return config.lr * min(1.0, (num_steps - step) / decay_steps)
