"""`holdtrue predict` and `holdtrue export`: a model that exists, on data in a file."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, final

import typer

from holdtrue.errors import UsageError
from holdtrue.launch import JobResult, JobSpec, check_name, count_devices, launch_elastic_job, new_run_dir
from holdtrue.wire import Setting

from . import _options as options
from ._commands import help_of
from ._run import MAKE_TOKEN, RUNS, check_workers, describe_start, is_stopped
from ._say import say, say_error, say_failures
from ._start import begin_at

_PREDICT = (
    "Outputs are written while they come, in the order of the data. Workers may die, join and leave meanwhile: "
    "`holdtrue status`, `resize` and `stop` work as for training. A prediction that was cut off goes on where it was: "
    "give the same command again, with any number of workers."
)
WRONG_USE = 2
"""Exit code after a mistake in the command: the same command again would not go on."""
_EXPORT = "The largest difference is given in float32 numbers that lie between (ulps) and in predictions that differ."

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="model.py, model.py:NAME, an exported program (.pt2) or a transformers folder.",
        show_default=False,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", metavar="FILE", help="Safetensors file for a model from a Python file."),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("predict", help=help_of("predict", _PREDICT))(predict)
    app.command("export", help=help_of("export", _EXPORT))(export)


def predict(
    model: Model,
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help=".npy, .npz, .safetensors, .csv or .txt.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="A folder of safetensors, or one .npy file.")
    ],
    weights: Weights = None,
    pass_size: Annotated[
        int,
        typer.Option(
            "--pass-size", parser=options.read_whole_number, metavar="N", help="Examples in a pass."
        ),
    ] = 32,
    pad_value: Annotated[
        float | None,
        typer.Option(
            "--pad-value",
            parser=options.read_number,
            metavar="X",
            help="Fill up outputs of unlike lengths with this.",
        ),
    ] = None,
    workers: options.Workers = None,
    restart: options.Restart = 0,
    listen: options.Listen = None,
    token_file: options.TokenFile = None,
    device: options.Device = None,
    devices: options.DeviceList = None,
    threads: options.Threads = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="JOB", help="Name of the job: a-z, 0-9 and -. [dim]default: predict[/dim]"
        ),
    ] = None,
    timeout: options.Timeout = None,
    numerics: options.Numerics = None,
) -> None:
    """`holdtrue predict`; `_PREDICT` says what it does."""
    from ._screen import open_screen  # rich is loaded when there is something to draw

    if pass_size < 1:
        raise UsageError(
            f"--pass-size is {pass_size}; a pass has at least one example. Give a number from 1."
        )
    request = PredictRequest(
        model=model,
        data=data,
        out=out,
        weights=weights,
        pass_size=pass_size,
        pad_value=pad_value,
        workers=workers,
        restarts=options.check_not_negative("--restart", restart),
        listen=listen,
        token_file=token_file,
        devices=devices,
        name=check_name(name) if name is not None else None,
        settings=options.Overrides(
            device=device, threads=threads, timeout=timeout, numerics=numerics
        ).settings(),
    )
    spec = spec_of(request, env=dict(os.environ), now=datetime.now())
    with open_screen(workers=spec.workers) as screen:
        result = launch_elastic_job(
            spec, screen, on_start=lambda entry: screen.show_note(describe_start(entry, listen))
        )
    say_end(result, spec)
    raise typer.Exit(result.exit_code)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest:
    """What the command line of `holdtrue predict` asks for."""

    model: str
    data: Path
    out: Path
    weights: Path | None = None
    pass_size: int = 32
    pad_value: float | None = None
    workers: options.WorkerRange | None = None
    restarts: int = 0
    listen: str | None = None
    """`HOST` or `HOST:PORT`; None for this machine alone."""
    token_file: Path | None = None
    """File with the token to join; None makes one."""
    devices: str | None = None
    """`cpu:4,cuda:1`; None assigns those of the setting `device`."""
    name: str | None = None
    """None for `predict`, made unique."""
    settings: Mapping[str, Setting]
    """Given settings."""

    def words(self) -> list[str]:
        """Model, data and options as the workers read them: with whole paths, since a host that joins works elsewhere."""
        # A model's path ends at its first colon.
        model = self.model if ":" in str(Path.cwd()) else str(Path(self.model).absolute())
        words = ["predict", f"--out={self.out.absolute()}", f"--pass-size={self.pass_size}"]
        words += [f"--weights={self.weights.absolute()}"] if self.weights is not None else []
        words += [f"--pad-value={self.pad_value}"] if self.pad_value is not None else []
        return [*words, "--", model, str(self.data.absolute())]

    def command(self) -> str:
        """The command again, which goes on with the prediction. Pure."""
        words = ["holdtrue", "predict", plain(self.model), plain(self.data), "--out", plain(self.out)]
        words += ["--pass-size", str(self.pass_size)]
        words += ["--weights", plain(self.weights)] if self.weights is not None else []
        words += [f"--pad-value={self.pad_value}"] if self.pad_value is not None else []
        words += ["--workers", str(self.workers)] if self.workers is not None else []
        words += ["--devices", self.devices] if self.devices is not None else []
        words += ["--restart", str(self.restarts)] if self.restarts else []
        words += ["--listen", self.listen] if self.listen is not None else []
        words += ["--token-file", str(self.token_file)] if self.token_file is not None else []
        words += ["--name", self.name] if self.name is not None else []
        return shlex.join([*words, *options.words_of(self.settings)])


def plain(path: str | Path) -> str:
    """A path that no reader of a command takes for an option. Pure.

    >>> plain("-o"), plain(Path("o"))
    ('./-o', 'o')
    """
    return f"./{path}" if str(path).startswith("-") else str(path)


def spec_of(request: PredictRequest, *, env: dict[str, str], now: datetime) -> JobSpec:
    """The job that was asked for.

    Raises:
        UsageError: a setting or a device cannot be, or there are too many workers.
    """
    force = options.settings_in_force(request.settings, env)
    workers, places = request.workers or options.ONE_WORKER, None
    if request.devices is not None:
        start = begin_at(
            request.devices,
            None,
            None,
            is_auto=False,
            device=str(request.settings["device"]) if "device" in request.settings else None,
            workers=None if request.workers is None else request.workers.start,
            mapping=None,
            given=request.settings,
        )
        assert start is not None, "a list of devices has a start"
        places = start.devices
        workers = replace(workers, start=len(places))
    device, threads = str(force.get("device", "auto")), int(force.get("threads", 1))
    count = workers.choose_start(count_devices(device, threads, env))
    check_workers(max(count, workers.most or 0))
    timeout_s = float(force.get("timeout_s", 300.0))
    host, port = options.read_address(request.listen)
    folder = new_run_dir(RUNS, request.name or "predict", now)
    return JobSpec(
        script="holdtrue.inference",
        is_module=True,
        arguments=tuple(request.words()),
        run_dir=folder,
        name=request.name or "predict",
        is_name_given=request.name is not None,
        workers=count,
        least_workers=workers.least,
        most_workers=workers.most,
        restarts=request.restarts,
        listen=host,
        listen_port=port,
        join_token=None
        if request.token_file is None
        else options.read_token_file(request.token_file, way_out=MAKE_TOKEN),
        device=device,
        devices=places,
        threads=threads,
        group_timeout_s=timeout_s,
        interrupt_wait_s=timeout_s,
        settings={**request.settings, "run_dir": str(folder), "resume": False},
        resume_command=request.command(),
    )


def say_end(result: JobResult, spec: JobSpec) -> None:
    """Print how the prediction ended, and how it goes on; nothing if well."""
    say_failures(result.failures, workers=spec.workers)
    if result.exit_code == 0 or result.has_finished:
        return
    if result.reason and not is_stopped(result):
        say_error(result.reason)
    ended = "interrupted" if result.was_interrupted else "stopped" if is_stopped(result) else "failed"
    if result.exit_code != WRONG_USE:
        say(f"{ended}; what is written stays. Go on with:\n    {spec.resume_command}")


def export(
    model: Model,
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Real examples to compare on.", show_default=False)
    ],
    to: Annotated[str, typer.Option("--to", metavar="onnx,torch", help="What to write.")] = "onnx,torch",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the files.")] = Path(
        "exported"
    ),
    weights: Weights = None,
    examples: Annotated[
        int,
        typer.Option(
            "--examples", parser=options.read_whole_number, metavar="N", help="Examples to compare."
        ),
    ] = 64,
) -> None:
    """`holdtrue export`; `_EXPORT` says what it does."""
    words = ["export", f"--out={out}", f"--to={to}", f"--examples={examples}"]
    words += [f"--weights={weights}"] if weights is not None else []
    words += ["--", model, str(data)]
    # A process of its own: this one stays without torch.
    done = subprocess.run(
        [sys.executable, "-m", "holdtrue.inference", *words], env=dict(os.environ), check=False
    )
    raise typer.Exit(done.returncode)
