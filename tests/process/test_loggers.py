"""TensorBoard, MLflow and CSV through their own libraries: a scalar is logged once, with the same bits on every mapping."""

import csv
from pathlib import Path

import pytest
from commands import HOLDTRUE, call, write_script

pytestmark = [pytest.mark.process, pytest.mark.slow]

Rows = list[tuple[int, str, float]]

SCRIPT = """
import csv, functools

@functools.cache
def writers():
    found = []
    kinds = os.environ["LOGGERS"].split(",")
    if "csv" in kinds:
        file = open("scalars.csv", "a", newline="", buffering=1)
        found.append(lambda name, value, step: csv.writer(file).writerow([step, name, repr(value)]))
    if "tensorboard" in kinds:
        from torch.utils.tensorboard import SummaryWriter
        board = SummaryWriter("board")
        closing.append(board.close)  # it writes in a thread of its own, and the last scalars only when it is closed
        found.append(lambda name, value, step: board.add_scalar(name, value, step, double_precision=True))
    if "mlflow" in kinds:
        import mlflow
        mlflow.set_tracking_uri("sqlite:///mlflow.db" if os.environ.get("SQL") else "file:" + os.path.abspath("mlruns"))
        mlflow.start_run()
        found.append(lambda name, value, step: mlflow.log_metric(name, value, step=step))
    return found

closing = []

def close():
    for end in closing:
        end()

def log(step, values):
    for name, value in values.items():
        for write in writers():
            write(name, value, step)

def main():
    run, model = start(virtual_nodes=3, global_batch_size=7, seed=1)
    data = examples(28)
    for step in run.steps(data, epochs=3):
        for batch in step:
            step.backward(loss_of(model, batch))
        step.update(max_grad_norm=1.0)
        if os.environ.get("KILL") and step.index == 4 and not run.is_main:
            os.kill(os.getpid(), signal.SIGKILL)
        run.log(loss=step.loss)
        run.on_main(log, step.index, {"loss": float(step.loss), "weight": float(model.line.weight.sum())})
    scores = run.evaluate(lambda x, y: {"error": ((model(x) - y) ** 2).mean()}, data)
    run.on_main(log, 12, scores)
    run.on_main(close)

if __name__ == "__main__":
    main()
"""


def run_on(folder: Path, loggers: str, *words: str, kill: bool = False) -> None:
    folder.mkdir()
    script = write_script(folder, SCRIPT)
    env = {"LOGGERS": loggers, "PYTHONWARNINGS": "default", "MLFLOW_ALLOW_FILE_STORE": "true"} | (
        {"KILL": "1"} if kill else {}
    )
    done = call([HOLDTRUE, "run", "--device", "cpu", *words, str(script)], cwd=folder, env=env)
    assert done.status == 0, done.text


def read_csv(folder: Path) -> Rows:
    with open(folder / "scalars.csv", newline="") as file:
        return [(int(step), name, float(value)) for step, name, value in csv.reader(file)]


def read_board(folder: Path) -> Rows:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    board = EventAccumulator(str(folder / "board"), size_guidance={"tensors": 0, "scalars": 0})
    board.Reload()
    tags = board.Tags()
    rows = [(e.step, name, float(e.value)) for name in tags["scalars"] for e in board.Scalars(name)]
    rows += [
        (e.step, name, float(make_ndarray(e.tensor_proto)))
        for name in tags["tensors"]
        for e in board.Tensors(name)
    ]
    return rows


def read_mlflow(folder: Path) -> Rows:
    rows: Rows = []
    for file in (folder / "mlruns").glob("*/*/metrics/*"):
        for line in file.read_text().splitlines():
            _, value, step = line.split()[:3]
            rows.append((int(step), file.name, float(value)))
    return rows


READERS = {"csv": read_csv, "tensorboard": read_board, "mlflow": read_mlflow}


@pytest.mark.parametrize("logger", READERS)
def test_every_scalar_is_logged_once_and_has_the_same_bits_on_every_mapping_and_through_a_death(
    tmp_path: Path, logger: str
) -> None:
    if logger != "csv":
        pytest.importorskip(logger)
    run_on(tmp_path / "one", logger)
    run_on(tmp_path / "two", logger, "--workers", "2")
    run_on(tmp_path / "three", logger, "--mapping", "0/2/1")
    run_on(tmp_path / "death", logger, "--workers", "2", kill=True)
    read = READERS[logger]
    expected = sorted(read(tmp_path / "one"))
    assert len(expected) == len({row[:2] for row in expected}) == 25
    for case in ("two", "three", "death"):
        assert sorted(read(tmp_path / case)) == expected, case
