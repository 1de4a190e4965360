"""Starting a job on this machine, and seeing it through.

    in:  JobSpec: a script, a number of workers, a run directory
    out: JobResult: the exit code, the causes of a failure, the last digest

The launcher starts processes and listens to their reports; no gradient and no torch here. This package
can be called, as `holdtrue.launch(main, workers=2)`, since the function and the package share a name.
"""

import sys
from types import ModuleType

from ._controller import TIE_TO_PARENT
from ._devices import (
    assign_devices,
    choose_device,
    count_cuda_devices,
    count_devices,
    kind_of_model,
    name_cuda_devices,
    torch_has_cuda,
)
from ._elastic import launch_elastic_job
from ._job import DEVICES, Failure, JobResult, JobSpec, WorkerEnd
from ._launch import launch_job
from ._leases import LEASES_VARIABLE, Leases, visible_devices
from ._notebook import launch
from ._observer import JobObserver, PlainObserver, SilentObserver, Stream
from ._part_memory import DEVICE_MEMORY_VARIABLE, LEAST_PART_BYTES, machine_memory
from ._registry import (
    JobEntry,
    JobState,
    end_lost,
    find_job,
    is_locked,
    jobs_folder,
    list_jobs,
    register,
    take_lock,
)
from ._remote import join_job
from ._run_dir import check_name, name_of_script, new_run_dir, newest_run_dir
from ._worker import TOKEN_VARIABLE

__all__ = [
    "DEVICES",
    "DEVICE_MEMORY_VARIABLE",
    "LEASES_VARIABLE",
    "LEAST_PART_BYTES",
    "TIE_TO_PARENT",
    "TOKEN_VARIABLE",
    "Failure",
    "JobEntry",
    "JobObserver",
    "JobResult",
    "JobSpec",
    "JobState",
    "Leases",
    "PlainObserver",
    "SilentObserver",
    "Stream",
    "WorkerEnd",
    "assign_devices",
    "check_name",
    "choose_device",
    "count_cuda_devices",
    "count_devices",
    "end_lost",
    "find_job",
    "is_locked",
    "jobs_folder",
    "join_job",
    "kind_of_model",
    "launch",
    "launch_elastic_job",
    "launch_job",
    "list_jobs",
    "machine_memory",
    "name_cuda_devices",
    "name_of_script",
    "new_run_dir",
    "newest_run_dir",
    "register",
    "take_lock",
    "torch_has_cuda",
    "visible_devices",
]


class _CallableModule(ModuleType):
    """Importing a submodule binds its name in the parent package, over the function of that name."""

    __call__ = staticmethod(launch)


sys.modules[__name__].__class__ = _CallableModule
