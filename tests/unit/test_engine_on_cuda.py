"""What the engine does where there is a CUDA device, on a machine without any."""

import pytest
import torch
import torch.nn.functional as F

import holdtrue as ht
from holdtrue.engine import export_user_streams, import_user_streams
from holdtrue.testing import run_in_process


def test_the_users_stream_of_a_cuda_device_is_in_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [torch.tensor([7, 1], dtype=torch.uint8)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: states[-1])
    monkeypatch.setattr(torch.cuda, "set_rng_state", states.append)
    saved = export_user_streams()
    states.append(torch.tensor([9, 9], dtype=torch.uint8))
    import_user_streams(saved)
    assert states[-1].tolist() == [7, 1]


def test_streams_go_between_workers_with_and_without_a_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = export_user_streams()
    assert "cuda" not in plain
    import_user_streams(plain | {"cuda": torch.zeros(16, dtype=torch.uint8)})
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    import_user_streams(plain)


def test_workers_on_the_cpu_leave_a_device_alone_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned memory would take hold of it; here, where there is none, it would fail."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def main() -> str:
        run = ht.init(virtual_nodes=2, global_batch_size=4, seed=0)
        model = torch.nn.Linear(3, 2)
        model, _ = run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        data = torch.utils.data.TensorDataset(torch.randn(8, 3), torch.zeros(8, dtype=torch.int64))
        for step in run.steps(data):
            for x, y in step:
                step.backward(F.cross_entropy(model(x), y))
            step.update()
        digest = run.digest()
        run.close()
        return digest

    assert len(set(run_in_process(main, workers=2))) == 1
