"""`make demo`: one training script on 1, 2 and 3 workers, and on workers that change, and whether the bits are the same.

Each run is an ordinary `holdtrue run`; what the table shows is read from the run directories. In the last one the demo
does what a user would do in another terminal: `holdtrue resize`, and `kill -9` of a worker.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from holdtrue.elastic import ControlClient, read_tokens
from holdtrue.launch import find_job, jobs_folder
from holdtrue.record import RunRecord, read_run

SCRIPT = Path(__file__).resolve().parent / "digits" / "train.py"
FOLDER = Path("runs") / "demo"
MAPPINGS = (
    ("1 worker", "0-7"),
    ("2 workers", "0-3/4-7"),
    ("3, uneven", "0-2/3-6/7"),
)
"""What to call a run, and the virtual nodes of each of its workers. The last one does not follow the
tree of additions, so that sums per worker would show."""

CHANGES = "2, 3, killed, 1"
HOLD_AT = (60, 120, 180)
"""Before these steps the changing run waits for the change: training takes seconds, a worker's imports as long."""
WAIT_S = 60.0
"""Bound of every wait for the changing run."""
LOOK_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One run of the demo."""

    label: str
    mapping: str
    """The mapping, or what happened to the workers."""
    folder: str
    """Name of its run directory."""
    seconds: float
    """From the command to its end, the start of Python included."""
    record: RunRecord
    """What the run wrote: a digest of the training state after every step."""

    @property
    def digests(self) -> tuple[str, ...]:
        """Digest after each step, in order."""
        return tuple(self.record.digests[step].digest for step in self.record.steps)

    @property
    def accuracy(self) -> float:
        """Share of the test images that the trained model names rightly."""
        return float(self.record.metrics[-1].values["accuracy"])


def start_run(folder: str, *options: str, hold_at: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
    """Start `holdtrue run` on the script, in this terminal; before the steps of `hold_at` it waits for its workers to change."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("HOLDTRUE_")}
    if hold_at:
        own["HOLDTRUE_HOLD_AT"] = ",".join(map(str, hold_at))
    command = [
        str(Path(sys.executable).with_name("holdtrue")), "run", *options,
        "--device", "cpu", "--digest-every", "1", "--run-dir", folder, str(SCRIPT),
    ]  # fmt: skip
    return subprocess.Popen(command, cwd=FOLDER, env=own)


def train_on(label: str, mapping: str) -> Shown:
    """Train once on the workers of `mapping`; ends the demo with the run's own status if it fails."""
    folder = mapping.replace("/", "_")
    started_s = time.monotonic()
    status = start_run(folder, "--mapping", mapping).wait()
    if status:
        raise SystemExit(status)
    seconds = time.monotonic() - started_s
    return Shown(
        label=label, mapping=mapping, folder=folder, seconds=seconds, record=read_run(FOLDER / folder)
    )


def train_on_changing_workers(console: Console) -> Shown:
    """Train on 2 workers, grow to 3, kill one, shrink to 1, while it trains."""
    name, started_s = f"demo-{os.getpid()}", time.monotonic()
    run = start_run("changing", "--workers", "2", "--name", name, hold_at=HOLD_AT)
    try:
        job = RunningJob(name, run)
        job.wait_for_step(HOLD_AT[0])
        show_command(console, f"holdtrue resize {name} 3")
        job.client().resize(3)
        job.wait_for_step(HOLD_AT[1])
        victim = job.pids()[-1]
        show_command(console, f"kill -9 {victim}  [dim](one of {len(job.pids())} workers)[/dim]")
        os.kill(victim, signal.SIGKILL)
        job.wait_for_step(HOLD_AT[2])
        show_command(console, f"holdtrue resize {name} 1")
        job.client().resize(1)
        status = run.wait()
    finally:
        if run.poll() is None:
            run.terminate()
            run.wait()
    if status:
        raise SystemExit(status)
    record = read_run(FOLDER / "changing")
    generations = {step.generation for step in record.steps.values()}
    if len(generations) < 4:
        raise SystemExit(f"The run was over before all changes were in (generations {sorted(generations)}).")
    seconds = time.monotonic() - started_s
    return Shown(label="changing", mapping=CHANGES, folder="changing", seconds=seconds, record=record)


def show_command(console: Console, command: str) -> None:
    """Print what a user would type, in the place of the run's progress line, which is drawn anew below."""
    if console.is_terminal:
        console.file.write("\r\x1b[2K")
    console.print(f"[dim]$[/dim] [bold]{command}[/bold]")
    if console.is_terminal:
        console.print()  # the progress line may have two lines, and erases as many


class RunningJob:
    """A job of this user, by its name, as `holdtrue status` finds it."""

    def __init__(self, name: str, run: subprocess.Popen[bytes]) -> None:
        self._name, self._run = name, run

    def client(self) -> ControlClient:
        """Its controller."""
        entry = find_job(jobs_folder(os.environ), self._name)[0]
        tokens = read_tokens(Path(entry.token_file))
        return ControlClient(url=entry.url, token=tokens.by_scope["admin"])

    def pids(self) -> list[int]:
        """Process id of each worker, by rank."""
        workers = [worker for worker in self.client().job()["workers"] if worker["rank"] is not None]
        return [worker["pid"] for worker in sorted(workers, key=lambda worker: worker["rank"])]

    def wait_for_step(self, step: int) -> None:
        """Until the run stands before `step`, as its record says."""
        record, until_s = FOLDER / "changing" / "steps.jsonl", time.monotonic() + WAIT_S
        while time.monotonic() < until_s:
            if self._run.poll() is not None:
                raise SystemExit(f"The run ended before step {step}.")
            if record.exists() and record.read_bytes().count(b"\n") >= step:
                return
            time.sleep(LOOK_S)
        raise SystemExit(f"The run did not come to step {step} within {WAIT_S:g} s.")


def find_difference(runs: list[Shown]) -> int | None:
    """First step after which not all runs have one digest; None if there is no such step."""
    if len({len(run.digests) for run in runs}) > 1:
        return min(len(run.digests) for run in runs)
    return next(
        (i for i, found in enumerate(zip(*(r.digests for r in runs), strict=True)) if len(set(found)) > 1),
        None,
    )


def draw_table(runs: list[Shown]) -> Table:
    """One row for each run."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("\nrun", no_wrap=True)
    table.add_column("mapping, or\nworkers", no_wrap=True)
    for name in ("final\nloss", "test\naccuracy", "\nseconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("\ndigest", no_wrap=True)
    for run in runs:
        loss = run.record.steps[max(run.record.steps)].loss
        colour = "green" if run.digests[-1:] == runs[0].digests[-1:] else "bold red"
        table.add_row(
            run.label, run.mapping, f"{loss:.6f}", f"{run.accuracy:.2%}", f"{run.seconds:.1f}",
            Text(run.digests[-1][:12], style=colour),
        )  # fmt: skip
    return table


def main() -> int:
    """Run the demo.

    Returns:
        0 if the digests are equal after every step, 1 if not.
    """
    console = Console(highlight=False)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    runs: list[Shown] = []
    for label, mapping in MAPPINGS:
        console.print(Rule(f"[bold]{label}[/bold]", align="left", style="dim"))
        runs.append(train_on(label, mapping))
        console.print()
    console.print(Rule("[bold]workers that change[/bold]", align="left", style="dim"))
    runs.append(train_on_changing_workers(console))
    console.print()
    console.print(
        Rule("[bold]a convolutional network on 1,437 handwritten digits[/bold]", align="left", style="dim")
    )
    console.print(draw_table(runs))
    console.print()
    different = find_difference(runs)
    if different is not None:
        console.print(f"[bold red]The digests differ[/bold red], first after step {different + 1}: look with")
        other = next(run for run in runs if run.digests != runs[0].digests)
        console.print(f"    holdtrue compare {FOLDER / runs[0].folder} {FOLDER / other.folder}")
        return 1
    steps = len(runs[0].digests)
    console.print(
        f"[bold green]The digests are equal[/bold green] after every one of the {steps} steps: "
        "1, 2, 3 and changing workers computed the same bits."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
