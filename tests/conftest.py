"""Environment for every test: threads that do not spin, W&B offline, no hub, Ctrl-C as usual."""

import os
import signal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

# a shell starts what it puts in the background with SIGINT ignored, and every child inherits that
signal.signal(signal.SIGINT, signal.default_int_handler)
