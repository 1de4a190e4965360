"""Whole runs on a CUDA device that is not here: nothing of the CPU's among its tensors, and the CPU's bits after every step."""

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import holdtrue as ht
from holdtrue.run import _core
from holdtrue.testing import run_in_process
from pretend_cuda import DEVICE, Pretend, PretendCuda

STEPS = 2
MAPPINGS = {1: "0-4", 3: "0,2/1,3/4"}


class Net(nn.Module):
    """Convolution, batch norm, dropout, and a buffer that stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Dropout(0.2),
            nn.Linear(16, 3),
        )  # fmt: skip
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.body(x) + self.table
        return scores


def train(run: ht.Run, device: torch.device) -> list[tuple[str, float]]:
    """Digest and loss after every step, with the weight of a pass on its device."""
    model = Net().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer = run.prepare(model, optimizer)
    g = torch.Generator().manual_seed(3)
    images, classes = (
        torch.randn(22 * STEPS, 1, 8, 8, generator=g),
        torch.randint(0, 3, (22 * STEPS,), generator=g),
    )
    found = []
    for step in run.steps(torch.utils.data.TensorDataset(images, classes)):
        for x, y in step:
            assert isinstance(x, Pretend) == (device == DEVICE)
            step.backward(F.cross_entropy(model(x), y), weight=(y >= 0).sum())
        step.update(max_grad_norm=1.0)
        found.append((run.digest(), step.loss))
    run.close()
    return found


def run_on(devices: Sequence[torch.device]) -> list[list[tuple[str, float]]]:
    """What each worker found, of a job with one worker for each device."""

    def main() -> list[tuple[str, float]]:
        device = devices[int(threading.current_thread().name.removeprefix("worker-"))]
        with PretendCuda() if device == DEVICE else nullcontext():
            run = ht.init(virtual_nodes=5, global_batch_size=22, seed=0, numerics="portable")
            return train(run, device)

    return run_in_process(main, mapping=MAPPINGS[len(devices)])


@pytest.fixture
def pretended(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Sequence[torch.device]], list[list[tuple[str, float]]]]:
    """`run_on`, with devices that torch does not have."""

    def run(devices: Sequence[torch.device]) -> list[list[tuple[str, float]]]:
        def choose(*_: object) -> torch.device:
            return devices[int(threading.current_thread().name.removeprefix("worker-"))]

        monkeypatch.setattr(_core, "choose_device", choose)
        return run_on(devices)

    return run


# guarantee G17, on the part of CUDA that can be shown without a device
def test_runs_on_cuda_and_of_both_kinds_have_the_bits_of_the_cpu(
    pretended: Callable[[Sequence[torch.device]], list[list[tuple[str, float]]]],
) -> None:
    cpu = torch.device("cpu")
    (expected,) = pretended([cpu])
    assert len({digest for digest, _ in expected}) == STEPS
    for devices in ([DEVICE], [cpu, DEVICE, DEVICE]):
        assert all(found == expected for found in pretended(devices)), devices
