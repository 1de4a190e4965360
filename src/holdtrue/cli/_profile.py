"""`holdtrue profile`: what a pass of a script costs on the devices here."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, final

import typer

from holdtrue.elastic import MOST_WORKERS
from holdtrue.errors import UsageError
from holdtrue.launch import JobSpec, Stream, kind_of_model, launch_job, name_cuda_devices, name_of_script
from holdtrue.profile import (
    DeviceFacts,
    DeviceProfile,
    Profile,
    Trial,
    assemble_device,
    describe_failures,
    merge_profiles,
    write_profile,
)
from holdtrue.units import cut_text
from holdtrue.wire import Report, Setting

from . import _options as options
from ._commands import help_of
from ._say import describe_failure, say, say_failures

_HELP = (
    "Runs the script for a few steps with virtual nodes of several sizes and writes a profile: seconds and "
    "peak bytes of a pass, the fixed part of a step, the exchange. `holdtrue plan` and `holdtrue run --profile` "
    "read it. The script ends after its last measured step: nothing is evaluated or saved."
)
REPEATS = 3
"""How often each size is measured, if the time suffices."""


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "profile", help=help_of("profile", _HELP), context_settings={"allow_interspersed_args": False}
    )(profile)


def profile(
    script: options.Script,
    arguments: options.Arguments = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The profile. [dim]default: SCRIPT.profile.json[/dim]"),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices",
            metavar="KIND:N,...",
            help="Kinds to measure, and how many of each are at work at once; cuda is every model of GPU here. "
            "[dim]default: up to 2 of each kind here[/dim]",
            rich_help_panel="Devices",
        ),
    ] = None,
    device: options.Device = None,
    threads: options.Threads = None,
    batch_sizes: Annotated[
        str | None,
        typer.Option(
            "--batch-sizes",
            metavar="B,B,...",
            help="Virtual-node batch sizes. [dim]default: powers of two up to the global batch, and the plan's[/dim]",
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            metavar="S",
            help="No repetition begins later than this, for each kind. The first is always whole.",
        ),
    ] = 30.0,
    virtual_nodes: options.VirtualNodes = None,
    global_batch_size: options.GlobalBatchSize = None,
    numerics: options.Numerics = None,
    timeout: options.Timeout = None,
    config: options.Config = None,
) -> None:
    """`holdtrue profile`; `_HELP` says what it does."""
    overrides = options.Overrides(
        virtual_nodes=virtual_nodes,
        global_batch_size=global_batch_size,
        numerics=numerics,
        device=device,
        threads=threads,
        timeout=timeout,
        config=config,
    )
    given = overrides.settings()
    force = options.settings_in_force(given, os.environ)
    if not Path(script).is_file():
        raise UsageError(f"the script {script} does not exist; a profile is of a Python file. Name one.")
    from ._start import count_devices

    threads_each = int(force.get("threads", 1))
    here = count_devices(threads_each)
    benches = choose_benches(
        devices,
        str(force.get("device", "auto")),
        slots=here["cpu"],
        cuda_devices=here["cuda"],
        gpus=lambda: name_cuda_devices(os.environ),
    )
    sizes = parse_sizes(batch_sizes)
    target = choose_target(out, script)
    if not seconds >= 0.0:
        raise UsageError(
            f"--seconds is {seconds}; it is a time of 0 or more. Pass such a number (0 measures everything once)."
        )
    request = ProfileRequest(
        script=script,
        arguments=tuple(arguments or ()),
        settings=given,
        threads=threads_each,
        sizes=sizes,
        seconds=seconds,
    )
    with open_bar() as bar:
        profiles = [measure_kind(request, bench, bar) for bench in benches]
    found = merge_profiles(profiles)
    write_profile(found, target)
    from ._profile_view import show_profile

    show_profile(found)
    say(f"wrote {target}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRequest:
    """What the command line of `holdtrue profile` asks for."""

    script: str
    arguments: tuple[str, ...]
    settings: Mapping[str, Setting]
    threads: int
    sizes: tuple[int, ...]
    """Virtual-node batch sizes; empty for those of interest."""
    seconds: float
    """After these no repetition begins."""


def choose_target(out: Path | None, script: str) -> Path:
    """The file of the profile.

    Raises:
        UsageError: it cannot be written there; that is said before anything is measured.
    """
    target = out or Path(f"{Path(script).stem}.profile.json")
    if target.is_dir() or not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        what = "is a folder" if target.is_dir() else "is in a folder that is not there, or cannot be written"
        raise UsageError(
            f"the profile is to be {target}, and that {what}; it is one file. Give another --out."
        )
    return target


def parse_sizes(text: str | None) -> tuple[int, ...]:
    """Ascending virtual-node batch sizes.

    Raises:
        UsageError: the text is not whole numbers of 1 or more.

    >>> parse_sizes("16,8,16"), parse_sizes(None)
    ((8, 16), ())
    """
    if text is None:
        return ()
    sizes = {options.parse_count(word.strip()) for word in text.split(",")}
    if None in sizes:
        raise UsageError(
            f"--batch-sizes is {cut_text(text, 40)!r}; it is whole numbers of 1 or more, below a billion, with commas between. "
            f"Write it like 8,16,32."
        )
    return tuple(sorted(size for size in sizes if size is not None))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Devices of one kind that are measured at once."""

    kind: str
    """The profile's name of them: `cpu`, or that of a GPU's model."""
    devices: tuple[str, ...]
    """One for each worker: `cpu`, `cuda:1`."""

    @property
    def type(self) -> str:
        """`cpu` or `cuda`."""
        return self.devices[0].partition(":")[0]


def choose_benches(
    devices: str | None, device: str, *, slots: int, cuda_devices: int, gpus: Callable[[], Sequence[str]]
) -> tuple[Bench, ...]:
    """Which kinds to measure, and on which devices at once.

    Args:
        devices: The list, such as `cpu:2,cuda:1`; None for up to two of each kind here.
        device: `cpu`, `cuda` or `auto`: the kinds that are meant where there is no list.
        slots: CPU slots here.
        cuda_devices: CUDA devices here.
        gpus: Finds out their full names, by index; called where they are to be measured.

    Raises:
        UsageError: the list cannot be read, a kind is not here, or there are fewer GPUs of it.

    Guarantee:
        Pure but for `gpus`.
    """
    from holdtrue.solve import parse_devices

    groups = {g.kind: g.count for g in parse_devices(devices)} if devices is not None else {}
    wants_cuda = bool(set(groups) - {"cpu"}) if groups else device in ("auto", "cuda")
    models = tuple(gpus()) if cuda_devices and wants_cuda else ()
    here: dict[str, list[str]] = {"cpu": ["cpu"] * slots}
    for index, model in enumerate(models):
        here.setdefault(kind_of_model(model), []).append(f"cuda:{index}")
    if groups:
        return tuple(bench for kind, count in groups.items() for bench in _benches_of(kind, count, here))
    kinds = [kind for kind in here if device in ("auto", here[kind][0].partition(":")[0])]
    if not kinds:
        raise UsageError(
            f"--device is {device} and this machine shows none; a kind is measured where it is. Use --device cpu."
        )
    return tuple(Bench(kind=kind, devices=tuple(here[kind][:2])) for kind in kinds)


def _benches_of(kind: str, count: int, here: Mapping[str, Sequence[str]]) -> list[Bench]:
    """What one entry of the list means: `cuda` is every model that is here."""
    if kind == "cpu":
        if count > MOST_WORKERS:
            raise UsageError(
                f"--devices names {count} of cpu; {MOST_WORKERS} workers are the most that a job has. Name fewer: two tell "
                f"what an exchange costs."
            )
        return [Bench(kind=kind, devices=("cpu",) * count)]
    own = [each for each in here if each != "cpu"] if kind == "cuda" and kind not in here else [kind]
    if not own or not set(own) <= set(here):
        raise UsageError(
            f"--devices names {kind}, and this machine has {', '.join(here)}; a kind is measured where it is. "
            f"Leave it out, and merge profiles of several machines with --profile."
        )
    most = max(len(here[each]) for each in own)
    if count > most:
        raise UsageError(
            f"--devices names {count} of {kind}, and this machine has {most}; a pass is measured on a GPU of its own. "
            f"Name {most} or fewer."
        )
    return [Bench(kind=each, devices=tuple(here[each][:count])) for each in own]


# ---- measuring ----


@final
@dataclass(slots=True)
class Bar:
    """Where the measurement is; drawn by `open_bar`."""

    show: Any = None  # Any: rich's Progress, which is loaded when it is drawn
    task: Any = None  # Any: its task id
    notes: list[str] = field(default_factory=list)

    def begin(self, kind: str) -> None:
        """A kind of device begins."""
        if self.show is not None:
            self.task = self.show.add_task(f"{kind}: starting", total=None)

    def move(self, text: str, done: int, total: int | None) -> None:
        """Some trials are done."""
        if self.show is not None:
            self.show.update(self.task, description=text, completed=done, total=total)


@contextmanager
def open_bar() -> Iterator[Bar]:
    """A progress bar on stderr."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as show:
        yield Bar(show=show)


@final
class MeasureObserver:
    """Follows worker 0's file of trials."""

    def __init__(self, kind: str, folder: Path, bar: Bar) -> None:
        self._kind, self._file, self._bar = kind, folder / "measured-0.jsonl", bar
        self._next_s = 0.0
        bar.begin(kind)

    def show_report(self, rank: int, report: Report) -> None:
        """Nothing: what is measured is in files."""

    def show_output(self, stream: Stream, data: bytes) -> None:
        """Nothing: the script's own words are in the log."""

    def show_group(self, workers: int, generation: int) -> None:
        """Nothing: the group is fixed."""

    def show_note(self, text: str) -> None:
        """The launcher has something to say."""
        say(text)

    def tick(self, now_s: float) -> None:
        """Look how many trials are done."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + 0.2
        lines = read_lines(self._file)
        facts = next((line for line in lines if "facts" in line), None)
        trials = [line["trial"] for line in lines if "trial" in line]
        if facts is not None and trials:
            last = trials[-1]
            text = f"{self._kind}: {last['workers']} at once, {last['batch_size']} examples a pass"
            self._bar.move(text, len(trials), facts["total"])


def read_lines(path: Path) -> list[dict[str, Any]]:  # Any: JSON values
    """The whole lines of a file of JSON objects; none if there is no such file yet."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def measure_kind(request: ProfileRequest, bench: Bench, bar: Bar) -> Profile:
    """Measure one kind of device; blocks for about `request.seconds` and one repetition.

    Raises:
        Exit: the script failed; its error was shown.
        UsageError: no pass could be measured.
    """
    folder = Path(tempfile.mkdtemp(prefix="holdtrue-profile-"))
    began_s = time.monotonic()
    keeps_logs = False
    try:
        order = folder / "order.json"
        values = {
            "kind": bench.kind,
            "folder": str(folder),
            "sizes": request.sizes,
            "repeats": REPEATS,
            "seconds": request.seconds,
        }
        order.write_text(json.dumps(values), encoding="utf-8")
        spec = JobSpec(
            script="holdtrue.run._measure",
            is_module=True,
            arguments=(str(order), request.script, *request.arguments),
            run_dir=folder,
            name=name_of_script(request.script),
            workers=len(bench.devices),
            device=bench.type,
            devices=bench.devices,
            threads=request.threads,
            settings=dict(request.settings),
            interrupt_wait_s=5.0,
        )
        result = launch_job(spec, MeasureObserver(bench.kind, folder, bar))
        if result.exit_code != 0:
            say_failures(result.failures, workers=len(bench.devices))
            sentences = [describe_failure(failure, workers=len(bench.devices)) for failure in result.failures]
            keeps_logs = any(str(folder) in sentence for sentence in sentences)
            raise typer.Exit(result.exit_code)
        found = read_measured(folder, len(bench.devices), name_of_script(request.script))
        bar.move(f"{bench.kind}: measured in {time.monotonic() - began_s:.0f} s", 1, 1)
        return found
    finally:
        for path in folder.iterdir() if keeps_logs else (folder,):
            if path.is_file():
                path.unlink(missing_ok=True)
            elif path.name != "logs":
                shutil.rmtree(path, ignore_errors=True)


def read_measured(folder: Path, workers: int, model_name: str) -> Profile:
    """The profile of what the workers of one kind wrote down."""
    lines = [line for rank in range(workers) for line in read_lines(folder / f"measured-{rank}.jsonl")]
    facts = DeviceFacts.from_dict(next(line["facts"] for line in lines if "facts" in line))
    trials = [
        Trial(
            **{
                **line["trial"],
                "passes_s": tuple(line["trial"]["passes_s"]),
                "steps_s": tuple(line["trial"]["steps_s"]),
            }
        )
        for line in lines
        if "trial" in line
    ]
    exchanges = [(size, seconds) for line in lines for size, seconds in line.get("exchanges", ())]
    device: DeviceProfile = assemble_device(facts, trials, exchanges, date=date.today().isoformat())
    for sentence in describe_failures(trials):
        say(f"{facts.kind}: {sentence}")
    return Profile(
        model_name=model_name,
        devices=(device,),
        model_hash=facts.model_hash,
        numerics=facts.numerics,
        gradient_bytes=facts.gradient_bytes,
        virtual_nodes=facts.virtual_nodes,
        global_batch_size=facts.global_batch_size,
    )
