"""A prediction whose workers are killed with kill -9 goes on where it was, on another number of workers."""

from pathlib import Path

import pytest
from commands import holdtrue, python, write_script

from holdtrue.run import Outputs

pytestmark = pytest.mark.process

BODY = """
run = ht.init(virtual_nodes=4, global_batch_size=8)
model = Net()
run.prepare(model)
data = [torch.tensor([float(i), 1.0, 2.0]) for i in range(500)]

def outputs(x):
    with open(f"seen-{sys.argv[1]}-{os.getpid()}", "a") as file:
        file.writelines(f"{int(i)}\\n" for i in x[:, 0])
    if sys.argv[1] == "first" and x[0, 0] == 320:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"y": model(x), "i": x[:, 0].long()}

run.predict(outputs, data, out="out")
"""


def test_a_killed_prediction_is_completed_on_another_number_of_workers(tmp_path: Path) -> None:
    script = write_script(tmp_path, BODY)
    killed = holdtrue("run", "--device", "cpu", "--workers", "2", str(script), "first", cwd=tmp_path)
    assert killed.status == 1
    assert "SIGKILL" in killed.err
    written = {int(p.stem.removeprefix("part-")) for p in (tmp_path / "out").glob("part-*")}
    assert 0 < len(written) < 8
    done = python(script, "second")  # one worker; other numbers are in test_predict_to_disk.py
    assert done.status == 0, done.text
    assert Outputs(tmp_path / "out").load()["i"].tolist() == list(range(500))
    lines = [int(n) for seen in tmp_path.glob("seen-second-*") for n in seen.read_text().split()]
    assert sorted(lines) == [i for i in range(500) if i // 64 * 64 not in written]
