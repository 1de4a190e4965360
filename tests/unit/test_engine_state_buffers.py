"""Buffers of a checkpoint that the script's models do not have yet are hung in where they belong."""

import torch
from torch import nn

from holdtrue.engine import TrainingState


def state_of(*models: nn.Module) -> TrainingState:
    state = TrainingState()
    state.models = list(models)
    return state


def test_a_buffer_of_model_10_does_not_go_to_model_1() -> None:
    models = [nn.Sequential(nn.Linear(1, 1)) for _ in range(11)]
    state_of(*models)._restore_buffers({"10.0.late": torch.ones(2), "1.late": torch.zeros(1)})
    assert {n: b.tolist() for n, b in models[10].named_buffers()} == {"0.late": [1.0, 1.0]}
    assert {n: b.tolist() for n, b in models[1].named_buffers()} == {"late": [0.0]}


def test_a_restored_buffer_lies_on_the_device_of_its_module() -> None:
    model = nn.Sequential(nn.Linear(1, 1, device="meta"), nn.Identity())
    state_of(model)._restore_buffers({"0.late": torch.ones(2), "1.late": torch.ones(1)})
    assert {n: b.device.type for n, b in model.named_buffers()} == {"0.late": "meta", "1.late": "meta"}
