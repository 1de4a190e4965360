"""`holdtrue predict` and `holdtrue export`: a model that exists, on data in a file."""

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from holdtrue.errors import UsageError
from holdtrue.launch import JobSpec, launch_job, new_run_dir

from . import _options as options
from ._commands import help_of
from ._say import say_failures

_PREDICT = (
    "Outputs are written while they come, in the order of the data. A prediction that was cut off goes on where it was: "
    "give the same command again, with any number of workers."
)
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
    workers: Annotated[
        int, typer.Option("--workers", parser=options.read_whole_number, metavar="N", help="Processes.")
    ] = 1,
    device: options.Device = None,
    threads: options.Threads = None,
    timeout: options.Timeout = None,
    numerics: options.Numerics = None,
) -> None:
    """`holdtrue predict`; `_PREDICT` says what it does."""
    from ._screen import open_screen  # rich is loaded when there is something to draw

    if pass_size < 1:
        raise UsageError(
            f"--pass-size is {pass_size}; a pass has at least one example. Give a number from 1."
        )
    words = ["predict", model, str(data), "--out", str(out), "--pass-size", str(pass_size)]
    words += ["--weights", str(weights)] if weights is not None else []
    words += ["--pad-value", str(pad_value)] if pad_value is not None else []
    overrides = options.Overrides(device=device, threads=threads, timeout=timeout, numerics=numerics)
    spec = JobSpec(
        script="holdtrue.inference",
        is_module=True,
        arguments=tuple(words),
        run_dir=new_run_dir(Path("runs"), "predict", datetime.now()),
        name="predict",
        workers=workers,
        device=device or "auto",
        threads=threads or 1,
        settings=overrides.settings(),
    )
    with open_screen(workers=workers) as screen:
        result = launch_job(spec, screen)
    say_failures(result.failures, workers=workers)
    raise typer.Exit(result.exit_code)


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
    words = ["export", model, str(data), "--out", str(out), "--to", to, "--examples", str(examples)]
    words += ["--weights", str(weights)] if weights is not None else []
    # A process of its own: this one stays without torch.
    done = subprocess.run(
        [sys.executable, "-m", "holdtrue.inference", *words], env=dict(os.environ), check=False
    )
    raise typer.Exit(done.returncode)
