"""The heap: what a joiner has touched before costs no page faults later, and passes leave nothing small behind."""

import gc
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import holdtrue as ht
from holdtrue.engine import warm_memory

SIZE_BYTES, PAGE_BYTES = 128 * 2**20, 4096

FILL = """
import resource, torch
from holdtrue.engine import keep_freed_memory, warm_memory

kept = keep_freed_memory()
warm_memory({warm_bytes})
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
blocks = [torch.empty(2**23, dtype=torch.uint8).fill_(1) for _ in range({fill_bytes} // 2**23)]
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults_of_filling(size_bytes: int, *, warm_bytes: int) -> int:
    """Page faults of a process of its own, as a joiner is one: in an old heap holes that nobody touched come first."""
    script = FILL.format(warm_bytes=warm_bytes, fill_bytes=size_bytes)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    kept, faults = map(int, done.stdout.split())
    if not kept:
        pytest.skip("this C library keeps no freed memory")
    return faults


def test_warm_memory_is_taken_again_without_page_faults() -> None:
    size_bytes = SIZE_BYTES // 2
    pages = size_bytes // PAGE_BYTES
    assert faults_of_filling(size_bytes, warm_bytes=SIZE_BYTES) < pages // 10
    assert faults_of_filling(size_bytes, warm_bytes=0) > pages // 10


def test_nothing_is_warmed_for_a_model_without_parameters() -> None:
    warm_memory(0)


def test_a_pass_leaves_no_tensor_of_one_number_that_pins_the_heap() -> None:
    run = ht.init(virtual_nodes=6, global_batch_size=12, seed=0)
    model, _ = run.prepare(net := nn.Linear(3, 2), torch.optim.SGD(net.parameters(), lr=0.1))
    x = torch.randn(12, 3)
    data = TensorDataset(x, x.argmax(1) % 2)
    for step in run.steps(data, epochs=2):
        living = []
        for inputs, targets in step:
            small = [o for o in gc.get_objects() if type(o) is torch.Tensor and o.numel() == 1]
            living.append(len(small))
            del small
            outputs = model(inputs)
            step.sum(correct=(outputs.argmax(1) == targets).sum())
            step.backward(F.cross_entropy(outputs, targets))
        step.update()
        assert living[-1] == living[1]
        assert isinstance(step.totals["correct"], float)
