"""Starting a job on this machine, and seeing it through.

    in:  JobSpec: a script, a number of workers, a run directory
    out: JobResult: the exit code, the causes of a failure, the last digest

The launcher starts processes and listens to their reports; no gradient and no torch here. This package
can be called, as `holdtrue.launch(main, workers=2)`, since the function and the package share a name.
"""

import sys
from types import ModuleType

from ._devices import count_cuda_devices, torch_has_cuda
from ._job import DEVICES, Failure, JobResult, JobSpec, WorkerEnd
from ._launch import launch_job
from ._notebook import launch
from ._observer import JobObserver, PlainObserver, Stream
from ._run_dir import check_name, name_of_script, new_run_dir, newest_run_dir

__all__ = [
    "DEVICES",
    "Failure",
    "JobObserver",
    "JobResult",
    "JobSpec",
    "PlainObserver",
    "Stream",
    "WorkerEnd",
    "check_name",
    "count_cuda_devices",
    "launch",
    "launch_job",
    "name_of_script",
    "new_run_dir",
    "newest_run_dir",
    "torch_has_cuda",
]


class _CallableModule(ModuleType):
    """Importing a submodule binds its name in the parent package, over the function of that name."""

    __call__ = staticmethod(launch)


sys.modules[__name__].__class__ = _CallableModule
