"""What a run says of the machine that computed it."""

from __future__ import annotations

import pytest
import torch

from rlvr.common.machine import gpu_facts, version_in, versions

OPEN_MODULE = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (builder)
GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)
"""


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (OPEN_MODULE, "580.159.04"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54  Tue Jun  6", "535.54"),
        ("580.159.04\n580.159.04\n", "580.159.04"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the driver", None),
        ("", None),
    ],
)
def test_the_drivers_version_is_read_from_what_kernel_and_nvidia_smi_write(text, version):
    assert version_in(text) == version


def test_versions_are_those_that_the_libraries_give_themselves():
    assert versions()["torch"] == torch.__version__


def test_a_gpu_is_described_where_there_is_one():
    facts = gpu_facts()
    if not torch.cuda.is_available():
        assert facts is None
    else:
        assert facts is not None
        assert facts["name"] == torch.cuda.get_device_name()
        assert facts["cuda"] == torch.version.cuda
        assert facts["driver"]
