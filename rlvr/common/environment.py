"""Settings of the process that libraries read once, when they are imported."""

import logging
import os


def set_environment() -> None:
    """Sets what libraries read when they are imported: fewer log lines, threads that do not spin.

    OpenMP threads that spin while they wait take whole cores from the engine, the verifier and
    everything else: with one busy neighbour, generation on 2 cores was 10 times slower.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # as defaults: what the user has set stays
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # tokenizers warns at every fork once its threads have run
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
