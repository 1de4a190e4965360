"""`holdtrue profile` on a real script, and `holdtrue run` with what it wrote."""

import json
import re
import shutil
from pathlib import Path

import pytest
from commands import holdtrue, write_script

from holdtrue.profile import read_profile

pytestmark = pytest.mark.process

BODY = """
if __name__ == "__main__":
    run, model = start()
    pathlib.Path("began").touch()
    for step in run.steps(examples(), epochs=2):
        take_step(step, model)
    run.print(run.digest())
    pathlib.Path("ended").touch()
"""


def test_a_profile_is_measured_and_a_run_from_it_has_the_bits_of_one_worker(tmp_path: Path) -> None:
    script = write_script(tmp_path, BODY)
    words = ["--devices", "cpu:2", "--batch-sizes", "2,4", "--seconds", "0", "--out", "net.json"]
    ended = holdtrue("profile", *words, script.name, cwd=tmp_path)
    assert ended.status == 0, ended.text
    assert (tmp_path / "began").exists()
    assert not (tmp_path / "ended").exists()  # a trial ends with its last measured step
    found = read_profile(tmp_path / "net.json")
    (device,) = found.devices
    assert (device.kind, [p.batch_size for p in device.points]) == ("cpu", [2, 4])
    assert all(0 < p.seconds < 10 for p in device.points)
    assert all((p.peak_bytes or 0) > 2**20 for p in device.points)
    assert device.exchange_bytes_per_s is None or device.exchange_bytes_per_s > 0
    assert (found.virtual_nodes, found.global_batch_size, found.gradient_bytes) == (4, 8, 16)
    assert "examples/s" in ended.out

    alone = holdtrue("run", "--run-dir", "alone", script.name, cwd=tmp_path)
    solved = holdtrue(
        "run", "--devices", "cpu:2", "--profile", "net.json", "--run-dir", "solved", script.name, cwd=tmp_path
    )
    assert solved.status == 0, solved.text
    assert "mapping of net.json: 4 virtual nodes x 2" in solved.err
    assert solved.out.split()[-1] == alone.out.split()[-1]

    values = json.loads((tmp_path / "net.json").read_text())
    values["model"]["hash"] = "0123456789abcdef"
    (tmp_path / "other.json").write_text(json.dumps(values))
    refused = holdtrue("run", "--profile", "other.json", "--run-dir", "refused", script.name, cwd=tmp_path)
    assert refused.status == 2
    assert "measured with a model whose parameters have layout 0123456789abcdef" in refused.err


def test_a_script_that_fails_or_has_no_steps_is_refused_with_its_own_error(tmp_path: Path) -> None:
    script = write_script(tmp_path, "ht.init(virtual_nodes=2, global_batch_size=4)\n")
    ended = holdtrue("profile", "--devices", "cpu:1", script.name, cwd=tmp_path)
    assert ended.status == 2
    assert "ended without run.steps, so there is no pass to measure" in ended.err
    assert not list(tmp_path.glob("*.json"))


def test_the_log_that_the_sentence_of_a_failure_names_is_there_afterwards(tmp_path: Path) -> None:
    script = write_script(
        tmp_path, "print('first')\nprint('last', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = holdtrue("profile", "--devices", "cpu:1", script.name, cwd=tmp_path)
    assert ended.status == 1, ended.text
    (log,) = map(Path, re.findall(r"was killed by SIGKILL; the log is (\S+)", ended.err))
    try:
        assert log.read_text().split() == ["first", "last"]
        assert [path.name for path in log.parent.parent.iterdir()] == ["logs"], "nothing else is left"
    finally:
        shutil.rmtree(log.parent.parent)


FAILS_ALONE = """
if __name__ == "__main__":
    run, model = start()
    number = int(os.environ["HOLDTRUE_WORKER_WORKER"])
    for step in run.steps(examples(), epochs=2):
        for batch in step:
            if len(batch[0]) == (4, 8)[number] and run.mapping.world_size > 1:
                raise RuntimeError(f"out of memory on worker {number} alone")
            step.backward(loss_of(model, batch))
        step.update()
"""


def test_a_size_that_fails_on_one_worker_alone_is_left_out_long_before_the_time_out(tmp_path: Path) -> None:
    script = write_script(tmp_path, FAILS_ALONE)
    words = ["--devices", "cpu:2", "--batch-sizes", "2,4,8,16", "--seconds", "0", "--out", "net.json"]
    # The time-out lies beyond the bound of the command here: whoever waits for it does not come to an end.
    ended = holdtrue("profile", *words, "--timeout", "600", script.name, cwd=tmp_path)
    assert ended.status == 0, ended.text
    (device,) = read_profile(tmp_path / "net.json").devices
    assert [p.batch_size for p in device.points] == [2, 16]
    for size, worker in ((4, 0), (8, 1)):
        reason = f"RuntimeError: out of memory on worker {worker} alone (worker {worker})"
        assert f"cpu: passes of {size} were left out: {reason}" in ended.err


LARGE = """
if __name__ == "__main__":
    def now():
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) // 1024
    run = ht.init(virtual_nodes=2, global_batch_size=4)
    model = torch.nn.Sequential(*(torch.nn.Linear(512, 512, bias=False) for _ in range(64)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.prepare(model, optimizer)
    pathlib.Path("before").write_text(str(now()))
    for step in run.steps([(torch.zeros(512), torch.zeros(512)) for _ in range(4)], epochs=1):
        take_step(step, model)
"""


@pytest.mark.slow
def test_a_peak_has_one_set_of_gradients_and_not_those_that_wait_in_the_trial(tmp_path: Path) -> None:
    script = write_script(tmp_path, LARGE)
    words = ["--devices", "cpu:1", "--batch-sizes", "2", "--seconds", "0", "--out", "net.json"]
    ended = holdtrue("profile", *words, script.name, cwd=tmp_path)
    assert ended.status == 0, ended.text
    (device,) = read_profile(tmp_path / "net.json").devices
    mib = (device.points[0].peak_bytes or 0) / 2**20 - int((tmp_path / "before").read_text())
    # Beside the weights: one set of 64 MiB. In the trial another one waited at least.
    assert 60 <= mib < 64 + 48, mib
