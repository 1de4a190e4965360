"""`make demo`: one training script on 1, 2 and 3 workers, and whether the bits are the same.

Each run is an ordinary `holdtrue run`; what the table shows is read from the run directories.
"""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from holdtrue.record import RunRecord, read_run

SCRIPT = Path(__file__).resolve().parent / "digits" / "train.py"
FOLDER = Path("runs") / "demo"
MAPPINGS = (
    ("1 worker", "0-7"),
    ("2 workers", "0-3/4-7"),
    ("3 workers, uneven", "0-2/3-6/7"),
)
"""What to call a run, and the virtual nodes of each of its workers. The last one does not follow the
tree of additions, so that sums per worker would show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One run of the demo."""

    label: str
    mapping: str
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


def train_on(label: str, mapping: str) -> Shown:
    """Train once on the workers of `mapping`; ends the demo with the run's own status if it fails."""
    folder = FOLDER / mapping.replace("/", "_")
    options = ["--mapping", mapping, "--device", "cpu", "--digest-every", "1", "--run-dir", folder.name]
    command = [str(Path(sys.executable).with_name("holdtrue")), "run", *options, str(SCRIPT)]
    own = {name: value for name, value in os.environ.items() if not name.startswith("HOLDTRUE_")}
    started_s = time.monotonic()
    status = subprocess.run(command, cwd=FOLDER, env=own, check=False).returncode
    if status:
        raise SystemExit(status)
    return Shown(label=label, mapping=mapping, seconds=time.monotonic() - started_s, record=read_run(folder))


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
    table.add_column("mapping of\nvirtual nodes", no_wrap=True)
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
    console.print(
        Rule("[bold]a convolutional network on 1,437 handwritten digits[/bold]", align="left", style="dim")
    )
    console.print(draw_table(runs))
    console.print()
    different = find_difference(runs)
    if different is not None:
        console.print(f"[bold red]The digests differ[/bold red], first after step {different + 1}: look with")
        console.print(
            f"    holdtrue compare {' '.join(str(FOLDER / r.mapping.replace('/', '_')) for r in runs[:2])}"
        )
        return 1
    steps = len(runs[0].digests)
    console.print(
        f"[bold green]The digests are equal[/bold green] after every one of the {steps} steps: "
        "1, 2 and 3 workers computed the same bits."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
