"""One host of a job as a Ray actor: it joins the job's controller with the device that Ray gave it."""

import contextlib
import os
import threading
from collections.abc import Mapping
from typing import Any, final

from holdtrue.errors import HoldtrueError
from holdtrue.launch import DEVICE_MEMORY_VARIABLE, JobResult, SilentObserver, join_job, machine_memory

_UNREAD_S = 10.0
"""How long an actor whose host ended waits to be asked how; then it gives its device back all the same."""
_ASK_S = 5.0
"""How long a question for its end waits: each takes one of the actor's few threads meanwhile."""
_WRONG_USE = 2


@final
class HostActor:
    """The process of one host. Its methods run in threads of Ray's; the host runs in one of ours.

    Args:
        order: `HostOrder` as a dictionary.
    """

    def __init__(self, order: Mapping[str, Any]) -> None:  # Any: JSON values
        self._order = order
        self._interrupts, self._wake = os.pipe()
        os.set_blocking(self._interrupts, False)
        self._said: dict[str, Any] = {}
        self._is_over = threading.Event()
        threading.Thread(target=self._run, name="holdtrue-host", daemon=True).start()

    def place(self) -> dict[str, Any]:
        """Where it is."""
        import ray

        return {"node": ray.get_runtime_context().get_node_id(), "pid": os.getpid()}

    def leave(self) -> None:
        """Leave the job at the next step boundary."""
        with contextlib.suppress(OSError):
            os.write(self._wake, b"!")

    def end(self) -> dict[str, Any]:
        """How it ended: `status`, `sentence` and `has_run`; empty if it has not ended yet.

        Blocks:
            At most 5 s.
        """
        return self._said if self._is_over.wait(_ASK_S) else {}

    def _run(self) -> None:
        try:
            self._said = self._join()
        except HoldtrueError as error:
            self._said = {
                "status": _WRONG_USE if isinstance(error, ValueError) else 1,
                "sentence": str(error),
                "has_run": False,
            }
        except BaseException as error:  # noqa: BLE001  # the edge of this thread: whatever it was is told
            self._said = {"status": 1, "sentence": f"{type(error).__name__}: {error}", "has_run": False}
        self._is_over.set()
        threading.Event().wait(_UNREAD_S)
        os._exit(0)

    def _join(self) -> dict[str, Any]:
        order = self._order
        os.environ.update(order["environment"])
        if order["kind"] == "cpu" and order["percent"] < 100:
            memory = 0 if os.environ.get(DEVICE_MEMORY_VARIABLE) else _memory_of_a_cpu()
            if memory:  # else nobody says it, and there is no bound
                os.environ[DEVICE_MEMORY_VARIABLE] = str(memory)
        try:
            os.chdir(order["folder"])
        except OSError as error:
            return {
                "status": _WRONG_USE,
                "sentence": f"the folder {order['folder']} of job {order['job']} cannot be entered on "
                f"{os.uname().nodename} ({error.strerror}); each machine of the Ray cluster needs the job's files at the "
                f"same path. Put them on a shared disk.",
                "has_run": False,
            }
        result = join_job(
            SilentObserver(),
            url=order["url"],
            token=order["token"],
            device=order["kind"],
            name=order["name"],
            adds=0,
            interrupts=self._interrupts,
        )
        return {
            "status": result.exit_code,
            "sentence": _sentence_of(result),
            "has_run": bool(result.ends),
        }


def _memory_of_a_cpu() -> int:
    """Bytes of this machine's memory that go with one of the CPUs that Ray has here; 0 if nobody says."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    cpus = sum(node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["NodeID"] == here)
    return int(machine_memory() / cpus) if cpus else 0


def _sentence_of(result: JobResult) -> str:
    said = [failure.sentence or failure.how for failure in result.failures]
    return said[0].splitlines()[-1] if said and said[0] else result.reason or ""
