"""What a run shares, begins late, and fills up: `run.share`, `first_step`, `pad_value`."""

from pathlib import Path
from typing import Any

import pytest
import torch

import holdtrue as ht
from holdtrue.errors import UsageError
from holdtrue.testing import run_in_process


def begin(**init: Any) -> tuple[Any, Any]:
    run = ht.init(**{"virtual_nodes": 4, "global_batch_size": 8, "seed": 5} | init)
    torch.manual_seed(2)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))
    run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    return run, model


EXAMPLES = [torch.full((3,), i / 20) for i in range(20)]


def train(run: Any, model: Any, *, first_step: int = 0, stop: int = 99) -> list[str]:
    digests = []
    for step in run.steps(EXAMPLES, epochs=3, first_step=first_step):
        for x in step:
            step.backward(model(x).square().mean())
        step.update()
        digests.append(run.digest())
        if len(digests) == stop:
            break
    return digests


def test_share_gives_every_worker_the_main_workers_value_and_a_resumed_run_the_first_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDTRUE_RUN_DIR", str(tmp_path))
    names = iter("abcdef")

    def main() -> Any:
        run, model = begin()
        shared = run.share({"name": next(names)})
        train(run, model)
        run.close()
        return shared

    assert run_in_process(main, mapping="1-3/0") == [{"name": "a"}] * 2
    monkeypatch.setenv("HOLDTRUE_RESUME", "1")
    assert run_in_process(main, mapping="0-3") == [{"name": "a"}]


@pytest.mark.parametrize("done", [0, 1, 2, 5])
def test_a_loop_that_begins_after_steps_done_elsewhere_has_the_bits_of_the_whole(done: int) -> None:
    def whole() -> list[str]:
        run, model = begin()
        digests = train(run, model)
        run.close()
        return digests

    def in_two() -> list[str]:
        run, model = begin()
        digests = train(run, model, stop=done) if done else []
        state = model.state_dict(), run._core.state.optimizers[0].state_dict()
        run.close()
        again, other = begin()
        other.load_state_dict(state[0])
        again._core.state.optimizers[0].load_state_dict(state[1])
        digests += train(again, other, first_step=done)
        again.close()
        return digests

    (expected,) = run_in_process(whole)
    assert len(expected) == 6
    assert run_in_process(in_two) == [expected]


def test_outputs_of_unlike_lengths_are_filled_up_or_refused() -> None:
    lines = [torch.ones(n) for n in (1, 4, 2, 3, 5)]

    def main() -> Any:
        run, _ = begin()
        found = run.predict(lambda x: x, lines, batch_size=1, pad_value=-1)
        with pytest.raises(UsageError, match=r"of shapes .* pad_value"):
            run.predict(lambda x: x, lines, batch_size=1)
        run.close()
        return found

    for found in run_in_process(main, mapping="0,2/1/3"):
        assert found.shape == (5, 5)
        assert found.eq(1).sum(1).tolist() == [1, 4, 2, 3, 5]
        assert found.eq(-1).sum(1).tolist() == [4, 1, 3, 2, 0]


def test_first_step_is_a_number_of_steps_over_data_with_a_length() -> None:
    def main() -> None:
        run, _ = begin()
        with pytest.raises(UsageError, match="first_step is -1"):
            run.steps(EXAMPLES, first_step=-1)
        run.close()

    run_in_process(main)
