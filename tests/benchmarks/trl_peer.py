"""trl 1.16's GRPOTrainer with colocated vLLM as one side of a comparison, set up to be fast.

On CPU vLLM repacks the weights of linear layers, so that trl's own sync (`load_weights`, one tensor
at a time) fails. It is replaced by vLLM's `reload_weights` on the same tensors: trl's own iterator,
which merges an adapter in place, yields every weight of the model and unmerges.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from tests.benchmarks.step_worker import Job, Step


@dataclass
class Meter:
    """What the running step has come to so far; most fields are those of Step.

    begin: when the first forward pass could begin. prepare_s: spent on generating and scoring,
    building tensors included. rescore_s: the part of it that is a pass for old log-probabilities.
    num_padded: positions of the forward passes.
    """

    begin: float = 0.0
    generate_s: float = 0.0
    verify_s: float = 0.0
    sync_s: float = 0.0
    prepare_s: float = 0.0
    rescore_s: float = 0.0
    response_lens: list[int] = field(default_factory=list)
    num_tokens: int = 0
    num_trained: int = 0
    num_padded: int = 0
    rewards: list[float] = field(default_factory=list)

    def timed(self, name: str, function: Any) -> Any:
        """`function`, its seconds added to the field `name`."""

        @functools.wraps(function)
        def run(*args: Any, **settings: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **settings)
            setattr(self, name, getattr(self, name) + time.perf_counter() - start)
            return result

        return run

    def step(self, seconds: float) -> Step:
        """The step that finishes now. A pass for old log-probabilities counts as update."""
        return Step(
            seconds,
            update_s=time.perf_counter() - self.begin - self.prepare_s + self.rescore_s,
            generate_s=self.generate_s,
            verify_s=self.verify_s,
            sync_s=self.sync_s,
            response_lens=self.response_lens,
            num_tokens=self.num_tokens,
            num_trained=self.num_trained,
            padding_frac=1 - self.num_trained / self.num_padded,
            reward=sum(self.rewards) / len(self.rewards),
        )


def serve(job: Job, connection: Connection) -> None:
    """Builds the trainer and takes steps on demand (see Worker)."""
    import torch
    from transformers import PrinterCallback
    from trl import GRPOConfig

    from rewards.trl import MathReward

    reward = MathReward(
        gold_column="answer",
        answer_mode=job.recipe.reward.answer_mode,
        timeout_s=job.recipe.reward.timeout_s,
        num_workers=job.recipe.reward.num_workers,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = _metered_trainer(
            Meter(),
            job.recipe.model.dtype,
            model=job.model_path,
            reward_funcs=reward,
            args=GRPOConfig(output_dir=folder, **settings(job)),
            train_dataset=_prompts(job),
            peft_config=_lora(job),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_on_demand(trainer, connection))
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        trainer.train()
    reward.close()


def settings(job: Job) -> dict[str, Any]:
    """GRPOConfig's fields: the recipe's algorithm, and every speed-up that trl offers on CPU."""
    rollout, optim, algorithm = job.recipe.rollout, job.recipe.optim, job.recipe.algorithm
    num_rollouts = rollout.prompts_per_step * rollout.group_size
    if num_rollouts % job.trl_passes:
        raise ValueError(f"trl_passes = {job.trl_passes}: must divide {num_rollouts} rollouts")
    return {
        "per_device_train_batch_size": num_rollouts // job.trl_passes,
        "gradient_accumulation_steps": job.trl_passes,  # one generation per step
        "num_generations": rollout.group_size,
        "max_completion_length": rollout.max_response_len,
        "temperature": rollout.temperature,
        "num_iterations": 1,  # on-policy: no pass for old log-probabilities
        "loss_type": "dapo",
        "epsilon": algorithm.clip_low,
        "epsilon_high": algorithm.clip_high,
        "beta": 0.0,
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_max_model_length": job.recipe.model.max_len,
        "vllm_importance_sampling_correction": job.trl_correction,
        "vllm_importance_sampling_mode": "token_truncate",
        "vllm_importance_sampling_clip_max": algorithm.mismatch_cap,
        "learning_rate": optim.lr,
        "lr_scheduler_type": "constant",
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.max_grad_norm,
        "max_steps": job.recipe.train.steps,
        "seed": job.recipe.train.seed,
        "shuffle_dataset": job.recipe.data.shuffle,
        "model_init_kwargs": {"dtype": job.recipe.model.dtype},
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "disable_dropout": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _prompts(job: Job) -> Any:
    """Our problems in our order, as texts with the chat template applied once and for all."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    from rlvr.data.problems import load_problems

    tokenizer: Any = AutoTokenizer.from_pretrained(job.model_path)
    problems = load_problems(job.recipe.data).problems
    texts = [
        tokenizer.apply_chat_template(list(p.prompt), add_generation_prompt=True, tokenize=False)
        for p in problems
    ]
    return Dataset.from_dict({"prompt": texts, "answer": [p.answer for p in problems]})


def _lora(job: Job) -> Any:
    """peft's configuration of the recipe's LoRA; None under full fine-tuning."""
    from peft import LoraConfig

    from rlvr.adapters.base import Setup

    adapter = job.recipe.adapter
    if adapter.method == "full":
        return None
    assert adapter.method == "lora", adapter.method
    setup = Setup(adapter, job.recipe.train.seed)
    modules = list(adapter.target_modules)
    return LoraConfig(
        r=setup.rank, lora_alpha=setup.alpha, target_modules=modules, task_type="CAUSAL_LM"
    )


def _metered_trainer(meter: Meter, dtype: str, **arguments: Any) -> Any:
    """A GRPOTrainer that fills `meter`, with the sync replaced."""
    import trl
    from trl.generation import vllm_generation

    class Metered(trl.GRPOTrainer):
        """Nothing but measurements around trl's own methods."""

        preparing = False

        def _prepare_inputs(self, generation_batch: Any) -> Any:
            self.preparing = True
            inputs = meter.timed("prepare_s", super()._prepare_inputs)(generation_batch)
            self.preparing = False
            return inputs

        def _generate(self, prompts: list) -> Any:
            result = super()._generate(prompts)
            meter.response_lens += map(len, result[1])
            meter.num_tokens += sum(map(len, result[0])) + sum(map(len, result[1]))
            return result

        def _calculate_rewards(self, *args: Any) -> Any:
            rewards = meter.timed("verify_s", super()._calculate_rewards)(*args)
            meter.rewards += rewards.nan_to_num()[:, 0].tolist()
            return rewards

        def _get_per_token_logps_and_entropies(self, *args: Any, **settings: Any) -> Any:
            score = super()._get_per_token_logps_and_entropies
            if self.preparing:
                return meter.timed("rescore_s", score)(*args, **settings)
            ids, mask = args[1], args[2]
            meter.num_trained += int(mask.sum())
            meter.num_padded += ids.numel()
            return score(*args, **settings)

    start_engine = vllm_generation.LLM
    # without a dtype vLLM samples from a float32 policy in bfloat16; trl's seed is 0 in every run
    own = {"enforce_eager": True, "dtype": dtype, "seed": arguments["args"].seed}
    vllm_generation.LLM = lambda **settings: start_engine(**settings | own)
    trainer: Any = Metered(**arguments)
    trainer.meter = meter
    generation = trainer.vllm_generation

    def sync() -> None:
        weights = generation._iter_named_params()
        generation.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        generation.llm.reset_prefix_cache()

    generation.sync_weights = meter.timed("sync_s", sync)
    generation.generate = meter.timed("generate_s", generation.generate)
    return trainer


def _on_demand(trainer: Any, connection: Connection) -> Any:
    """A callback that holds the trainer between steps until more are asked for."""
    from transformers import TrainerCallback

    meter = trainer.meter

    class OnDemand(TrainerCallback):
        """Sends the steps that were asked for, then waits."""

        def __init__(self) -> None:
            self.left, self.done, self.start = 0, [], 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.wait(control)

        def wait(self, control: Any) -> None:
            connection.send(self.done)
            self.left, self.done = connection.recv() or 0, []
            control.should_training_stop = self.left == 0
            self.start = time.perf_counter()

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            meter.begin = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.done.append(meter.step(time.perf_counter() - self.start))
            vars(meter).update(vars(Meter()))
            self.left -= 1
            self.start = time.perf_counter()
            if not self.left:
                self.wait(control)

    return OnDemand()
