"""`holdtrue.launch`: a job from a notebook or a script's own process."""

import os
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from holdtrue import errors
from holdtrue.errors import HoldtrueError, UsageError
from holdtrue.wire import describe_unknown_variables

from ._job import Failure, JobResult, JobSpec
from ._launch import launch_job
from ._observer import PlainObserver
from ._payload import read_result, write_payload
from ._run_dir import name_of_script, new_run_dir

T = TypeVar("T")


def launch(
    main: Callable[[], T],
    *,
    workers: int = 1,
    mapping: str | None = None,
    device: str = "auto",
    threads: int = 1,
    run_dir: str | Path | None = None,
    resume: bool = False,
) -> T:
    """Run `main` as a job of some workers on this machine and return what it returned on the main worker.

    Args:
        main: A function of no arguments that calls `holdtrue.init`; it may be defined in a notebook.
        workers: Processes to start, at least 1.
        mapping: Virtual nodes of each worker, such as `"0-7/8-11/12-15"`; None for the even mapping.
        device: `cpu`, `cuda` or `auto`.
        threads: Intra-op threads of each worker.
        run_dir: The run's directory; None for a new one under `runs/`.
        resume: Go on from the newest checkpoint in `run_dir`.

    Returns:
        The return value, which travels by cloudpickle through a file that only this user can read.

    Raises:
        UsageError: an argument is of another kind, `main` or its value cannot be pickled, or `main` never calls `holdtrue.init`.
        HoldtrueError: a worker failed; the error is of the worker's kind where that is one of ours.
        KeyboardInterrupt: the job was interrupted; its last checkpoint is in `run_dir`.

    Blocks:
        Until the job ends.
    """
    _check(main, run_dir)
    name = name_of_script(f"{getattr(main, '__name__', 'main')}.py")
    folder = Path(run_dir) if run_dir is not None else new_run_dir(Path("runs"), name, datetime.now())
    with tempfile.TemporaryDirectory(prefix="holdtrue-") as private:  # made with mode 0700
        payload = Path(private) / "main.pkl"
        write_payload(payload, main, sys.path)
        spec = JobSpec(
            script="holdtrue.launch._bootstrap",
            is_module=True,
            arguments=(str(payload),),
            run_dir=folder,
            name=name,
            workers=workers,
            mapping=mapping,
            device=device,
            threads=threads,
            settings={"run_dir": str(folder), "threads": threads, "resume": resume},
        )
        observer = PlainObserver()
        for sentence in describe_unknown_variables(os.environ):
            observer.show_note(f"warning: {sentence}")
        result = launch_job(spec, observer)
        _raise_failure(result, folder)
        value: T = read_result(payload)
    return value


def _check(main: object, run_dir: object) -> None:
    if not callable(main):
        raise UsageError(
            f"launch was given {main!r}; it runs a function of no arguments. Pass one such as main."
        )
    if run_dir is not None and not isinstance(run_dir, str | os.PathLike):
        raise UsageError(f"run_dir is {run_dir!r}; it is the path of a folder. Pass a text.")


def _raise_failure(result: JobResult, folder: Path) -> None:
    if result.was_interrupted:
        raise KeyboardInterrupt(f"the job was interrupted; go on with run_dir={str(folder)!r}, resume=True")
    if result.failures:
        raise error_of(result.failures[0])


def error_of(failure: Failure) -> HoldtrueError:
    """The failure as an error, of the worker's own kind where that is one of holdtrue's."""
    kind = getattr(errors, failure.kind or "", HoldtrueError)
    if failure.sentence is not None and kind is not HoldtrueError:
        error: HoldtrueError = kind(failure.sentence)
        return error
    last_words = f":\n{failure.sentence}" if failure.sentence else "."
    return HoldtrueError(f"worker {failure.workers[0]} {failure.how}; its log is {failure.log}{last_words}")
