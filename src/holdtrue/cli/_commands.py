"""The commands of `holdtrue`: a line of each for the help page, and the module that is loaded when one is run.

    in:  COMMANDS, by name, in the order of the help page
    out: Commands, the group that typer builds the command line with

Some commands need the launcher and the elastic layer, whose modules take longer to load than a help page may take.
"""

from importlib import import_module
from typing import Any, NamedTuple, final

import typer
from typer.core import TyperCommand, TyperGroup


class Entry(NamedTuple):
    """Where a command is, and its line on the help page."""

    module: str
    """A module of this package with an `add_to(app)`."""
    summary: str


COMMANDS = {
    "run": Entry("_run", "Run a training script as a job on this machine."),
    "status": Entry(
        "_jobs", "Show a job: its step, its workers, what it is changing to. Without JOB: all of yours."
    ),
    "resize": Entry("_jobs", "Give a running job another number of workers, from its next boundary on."),
    "stop": Entry(
        "_jobs",
        "End a running job at its next boundary: a training writes a checkpoint there.",
    ),
    "logs": Entry("_logs", "Show what the workers of a job printed, errors included."),
    "events": Entry("_logs", "Show what happened to a job: changes of membership, failures, checkpoints."),
    "worker": Entry("_join", "Add a device of this machine to a running job."),
    "verify": Entry("_verify", "Show that a training script holds true on the steps it runs."),
    "compare": Entry("_compare", "Find the first step and tensors where two runs part."),
    "digest": Entry(
        "_digest", "Print what a colleague on other hardware must get, or compare a run with that."
    ),
    "numerics": Entry(
        "_numerics",
        "List the operators that portable numerics covers, or those that a script needs and it does not.",
    ),
    "profile": Entry(
        "_profile", "Measure what a pass of a training script costs on each kind of device here."
    ),
    "plan": Entry(
        "_plan", "Say which virtual nodes and mapping to use, how fast a step will be, and why not otherwise."
    ),
    "simulate": Entry("_simulate", "Simulate a trace of jobs on a cluster under several policies."),
    "submit": Entry("_queue", "Submit jobs to the cluster: all of them, or none if one is wrong."),
    "queue": Entry("_queue", "Show the cluster's jobs: who runs on how many devices, who waits."),
    "cancel": Entry("_queue", "End a job of the cluster: a running one at its next step, with a checkpoint."),
    "predict": Entry("_predict", "Predict a data file with a model, on virtual nodes."),
    "export": Entry(
        "_predict",
        "Write a model for other runtimes, run it there on real examples, and show how far each is from PyTorch.",
    ),
    "serve": Entry("_serve", "Serve a model over HTTP, on virtual nodes."),
    "plot": Entry("_plot", "Draw loss, throughput and workers of one or more runs."),
    "dashboard": Entry(
        "_dashboard", "Show jobs, runs, two runs beside each other and a cluster on a web page."
    ),
    "cluster": Entry("_cluster", "A shared cluster: one scheduler that grows and shrinks live jobs."),
}


def help_of(name: str, details: str = "") -> str:
    """The help text of a command: its line of the help page, and what its own page says beyond that. Pure."""
    return f"{COMMANDS[name].summary}\n\n{details}".rstrip()


@final
class Commands(TyperGroup):
    """A group whose help page loads no command's module."""

    def __init__(self, **attributes: Any) -> None:  # Any: click's
        super().__init__(**attributes)
        for name, entry in COMMANDS.items():
            self.add_command(TyperCommand(name, callback=None, help=entry.summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # Any: click's, of either copy
        """As typer's, of the command itself."""
        if args and args[0] in COMMANDS:
            self.add_command(load_command(args[0]), args[0])
        return super().resolve_command(ctx, args)


def load_command(name: str) -> Any:  # Any: click's, of either copy
    """A command or group of this table with its options, from its module."""
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.callback()(_beside)
    import_module(f"{__package__}.{COMMANDS[name].module}").add_to(app)
    return typer.main.get_group(app).commands[name]


def _beside() -> None:
    """A callback makes typer build a group, also of a single command."""
