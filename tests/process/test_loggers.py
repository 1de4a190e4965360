"""TensorBoard, MLflow and CSV through their own libraries: a scalar is logged once, with the same bits on every mapping."""

import csv
import os
import signal
from pathlib import Path

import pytest
from commands import HOLDTRUE, PREAMBLE, Ended, call, write_script

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


KILL_ALL = """
import os, signal
import psutil

def kill_all():
    me = psutil.Process()
    above = me.parents()
    launcher = above[[p.pid for p in above].index(int(os.environ["TEST"])) - 1]
    for process in [launcher, *launcher.children(recursive=True)]:
        if process != me:
            process.kill()
    me.kill()
"""

LIT = """
import os
import lightning, torch
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger
from holdtrue.integrations.lightning import VirtualNodeStrategy

LOGGERS = {
    "csv": lambda: CSVLogger("csv", name="net"),
    "tensorboard": lambda: TensorBoardLogger("board", name="net"),
    "mlflow": lambda: MLFlowLogger("net", tracking_uri="file:" + os.path.abspath("mlruns")),
}

class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.line = torch.nn.Linear(3, 1)
    def training_step(self, batch, _):
        loss = (self.line(batch[0]) ** 2).mean()
        self.log("loss", loss)
        return loss
    def validation_step(self, batch, _):
        self.log("error", self.line(batch[0]).abs().mean())
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
    def on_train_batch_start(self, *_):
        if self.global_step == 8 and os.environ.get("KILL") == "all":
            kill_all()

torch.manual_seed(0)
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(12, 3)), batch_size=4)
trainer = lightning.Trainer(
    accelerator="cpu", devices=1, strategy=VirtualNodeStrategy(virtual_nodes=2, global_batch_size=4),
    max_epochs=4, log_every_n_steps=1, logger=LOGGERS[os.environ["LOGGERS"]](), enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(Net(), data, data)
"""

HF = """
import os
import torch
from transformers import PretrainedConfig, PreTrainedModel, TrainerCallback, TrainingArguments
from holdtrue.integrations.transformers import Trainer

class Net(PreTrainedModel):
    config_class = PretrainedConfig
    def __init__(self, config):
        super().__init__(config)
        self.line = torch.nn.Linear(3, 1)
        self.post_init()
    def forward(self, x, labels):
        found = self.line(x).squeeze(-1)
        return {"loss": ((found - labels) ** 2).mean(), "found": found}

class Kill(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 8 and os.environ.get("KILL") == "all":
            kill_all()
        if state.global_step == 8 and os.environ.get("KILL") == "main" and state.is_world_process_zero:
            os.kill(os.getpid(), signal.SIGKILL)

torch.manual_seed(1)
data = [{"x": torch.randn(3), "labels": torch.tensor(float(i % 5))} for i in range(12)]
args = TrainingArguments(
    "out", per_device_train_batch_size=4, num_train_epochs=4, logging_steps=1, eval_strategy="epoch", save_strategy="no",
    report_to=[os.environ["LOGGERS"]], use_cpu=True, disable_tqdm=True,
)
Trainer(Net(PretrainedConfig()), args, train_dataset=data, eval_dataset=data, callbacks=[Kill()]).train()
"""


GUIDE = (Path(__file__).parents[2] / "docs/guide/migration.md").read_text().partition("\n## Loggers\n")[2]
BLOCKS = [part.partition("```")[0] for part in GUIDE.split("```python\n")[1:]]
"""What the guide shows for TensorBoard, MLflow and CSV."""

OWN = """
run, model = start(virtual_nodes=3, global_batch_size=7, seed=1)
{block}
for step in run.steps(examples(28), epochs=3):
    if step.index == 8 and run.is_main:  # by then it has logged the step before
        if os.environ.get("KILL") == "all":
            kill_all()
        if os.environ.get("KILL") == "main":
            os.kill(os.getpid(), signal.SIGKILL)
    take_step(step, model)
    run.on_main(log, step.index, {{"loss": float(step.loss), "weight": float(model.line.weight.sum())}})
"""

SCRIPTS = {"lightning": LIT, "transformers": HF}


def read_csv(folder: Path) -> Rows:
    with open(folder / "scalars.csv", newline="") as file:
        return [(int(step), name, float(value)) for step, name, value in csv.reader(file)]


def read_rows(folder: Path) -> Rows:
    """Of Lightning's CSVLogger."""
    (path,) = folder.glob("csv/net/*/metrics.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [(int(r["step"]), n, float(v)) for r in rows for n, v in r.items() if v and n != "step"]


def read_board(folder: Path) -> Rows:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    (place,) = {file.parent for file in folder.rglob("events.out.*")}
    board = EventAccumulator(str(place), size_guidance={"tensors": 0, "scalars": 0})
    board.Reload()
    tags = board.Tags()
    rows = [(e.step, name, float(e.value)) for name in tags["scalars"] for e in board.Scalars(name)]
    arrays = [
        (e.step, name, make_ndarray(e.tensor_proto)) for name in tags["tensors"] for e in board.Tensors(name)
    ]
    rows += [
        (step, name, float(array)) for step, name, array in arrays if array.ndim == 0
    ]  # others are texts
    return rows


def read_mlflow(folder: Path) -> Rows:
    rows: Rows = []
    for file in (folder / "mlruns").glob("*/*/metrics/*"):
        for line in file.read_text().splitlines():
            _, value, step = line.split()[:3]
            rows.append((int(step), file.name, float(value)))
    return rows


def live_runs(folder: Path) -> list[str]:
    """Runs that MLflow shows; one that was deleted keeps its folder, with another stage."""
    files = (folder / "mlruns").glob("*/*/meta.yaml")
    return [file.parent.name for file in files if "lifecycle_stage: active" in file.read_text()]


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


def of_no_clock(rows: Rows) -> list[tuple[int, str, float]]:
    return sorted(row for row in rows if not row[1].endswith(("runtime", "per_second")))


def start(folder: Path, script: str, *words: str, **extra: str) -> Ended:
    """Start or resume a job in `folder`, whose script can kill all of it."""
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(KILL_ALL + script)
    env = {"TEST": str(os.getpid()), "PYTHONWARNINGS": "ignore", "MLFLOW_ALLOW_FILE_STORE": "true"}
    env["MLFLOW_TRACKING_URI"] = f"file:{folder}/mlruns"
    command = [HOLDTRUE, "run", "--device", "cpu", "--run-dir", "run", *words, "train.py"]
    return call(command, cwd=folder, env=env | extra)


@pytest.mark.parametrize("every", [5, 6])
@pytest.mark.parametrize(
    ("library", "logger"),
    [
        ("lightning", "csv"),
        ("lightning", "tensorboard"),
        ("lightning", "mlflow"),
        ("transformers", "tensorboard"),
        ("transformers", "mlflow"),
    ],
)
def test_after_a_kill_of_the_whole_job_a_resumed_run_has_every_scalar_once(
    tmp_path: Path, library: str, logger: str, every: int
) -> None:
    """kill -9 of launcher and worker beyond the newest checkpoint, within an epoch of 3 steps or at its end."""
    if logger != "csv":
        pytest.importorskip(logger)
    script, read = SCRIPTS[library], read_rows if logger == "csv" else READERS[logger]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = start(whole, script, LOGGERS=logger)
    assert done.status == 0, done.text
    words = ("--checkpoint-every", str(every))
    assert start(killed, script, *words, LOGGERS=logger, KILL="all").status == -signal.SIGKILL
    before = of_no_clock(read(killed))
    assert max(step for step, *_ in before) >= 7, "it has logged beyond its checkpoint"
    done = start(killed, script, *words, "--resume", LOGGERS=logger)
    assert done.status == 0, done.text
    assert f"at step {every}." in done.text
    assert of_no_clock(read(killed)) == of_no_clock(read(whole))
    if logger == "mlflow":
        assert len(live_runs(killed)) == 1, "no empty second run beside the one that goes on"


@pytest.mark.parametrize("logger", ["tensorboard", "mlflow"])
def test_transformers_logs_go_on_in_one_place_after_the_death_of_the_main_worker(
    tmp_path: Path, logger: str
) -> None:
    pytest.importorskip(logger)
    read = READERS[logger]
    done = start(tmp_path / "one", HF, LOGGERS=logger)
    assert done.status == 0, done.text
    done = start(tmp_path / "two", HF, "--workers", "2", LOGGERS=logger, KILL="main")
    assert done.status == 0, done.text
    assert "died" in done.text or "killed" in done.text, done.text
    assert of_no_clock(read(tmp_path / "two")) == of_no_clock(read(tmp_path / "one"))


@pytest.mark.parametrize(("number", "logger"), list(enumerate(["tensorboard", "mlflow", "csv"])))
def test_the_guides_lines_for_a_loop_of_ones_own_log_every_scalar_once_whatever_is_killed(
    tmp_path: Path, number: int, logger: str
) -> None:
    if logger != "csv":
        pytest.importorskip(logger)
    script, read = PREAMBLE + OWN.format(block=BLOCKS[number]), READERS[logger]
    done = start(tmp_path / "whole", script)
    assert done.status == 0, done.text
    expected = sorted(read(tmp_path / "whole"))
    assert [step for step, *_ in expected] == [step for step in range(12) for _ in range(2)]
    done = start(tmp_path / "main", script, "--workers", "2", KILL="main")
    assert done.status == 0, done.text
    assert sorted(read(tmp_path / "main")) == expected
    words = ("--workers", "2", "--checkpoint-every", "5")
    assert start(tmp_path / "all", script, *words, KILL="all").status == -signal.SIGKILL
    assert max(step for step, *_ in read(tmp_path / "all")) == 7, "it has logged beyond its checkpoint"
    done = start(tmp_path / "all", script, *words, "--resume")
    assert done.status == 0, done.text
    assert sorted(read(tmp_path / "all")) == expected
