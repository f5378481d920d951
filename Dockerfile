# rlvr with vLLM on NVIDIA GPUs. Not built or run by us yet; a test holds its versions to pyproject.toml
# and to requirements/.
#
#   docker build -t rlvr .
#   docker run --gpus all --ipc=host -v "$PWD:/work" -v rlvr-cache:/root/.cache rlvr doctor
#   docker run --gpus all --ipc=host -v "$PWD:/work" -v rlvr-cache:/root/.cache \
#       rlvr train recipes/gsm8k_qwen_0.5b_lora.toml
#
# --ipc=host: NCCL and vLLM's workers share memory. Runs are written to the folder that is mounted at
# /work; models and the warm start stay in the volume.

# devel, with a compiler: vLLM and Triton compile kernels when they start
FROM nvidia/cuda:13.0.3-devel-ubuntu24.04

RUN apt-get update \
    && apt-get install -y --no-install-recommends git python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/rlvr/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/rlvr

WORKDIR /src
COPY requirements/cuda.txt requirements/
# before the sources, so that a change to them does not load these again
RUN pip install --requirement requirements/cuda.txt

COPY pyproject.toml README.md LICENSE ./
COPY eval eval
COPY rewards rewards
COPY recipes recipes
COPY rlvr rlvr
RUN pip install --constraint requirements/cuda.txt '.[vllm]'

WORKDIR /work
ENTRYPOINT ["rlvr"]
CMD ["--help"]
