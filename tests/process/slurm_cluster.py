"""A Slurm cluster of pretended nodes on this machine's loopback, which its tests make and end.

Everything that it writes is in one folder. Each node is a `slurmd` in a process namespace of its own, so that a node can
die as a machine does: all of its processes at one moment.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil
from commands import environment

PROGRAMS = (
    "munged",
    "slurmctld",
    "slurmd",
    "srun",
    "sbatch",
    "scontrol",
    "sinfo",
    "squeue",
    "scancel",
    "unshare",
)
WAIT_S = 60.0
"""Bound of every wait: a requeue takes ten seconds, a dead node a few more."""
END_WAIT_S = 10.0
LOOK_S = 0.1
MOST_JOBS = 20
T = TypeVar("T")

_CONF = """
ClusterName=holdtrue
FirstJobId={first_job}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SlurmdTimeout=5
KillWait=30
ReturnToService=2
MpiDefault=none
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0
{nodes}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=preemptible Nodes=ALL MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
"""


def missing() -> str | None:
    """Why there can be no cluster here, as a sentence; None if there can."""
    if os.getuid() != 0:
        return "Slurm's daemons and nodes with processes of their own need root"
    lacking = [program for program in PROGRAMS if shutil.which(program) is None]
    if lacking:
        return f"{', '.join(lacking)} cannot be found; `make slurm` installs Debian's Slurm"
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, timeout=20
    )
    if tried.returncode != 0:
        return f"this machine makes no process namespaces: {tried.stderr.decode().strip()}"
    return None


class SlurmCluster:
    """The cluster, from `start` to `close`.

    Args:
        folder: Where everything is written; a short path, since it holds a socket.
        nodes: How many nodes, of one CPU each: `n1`, `n2`, ...
    """

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder = folder
        self.nodes = tuple(f"n{number}" for number in range(1, nodes + 1))
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._clients: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        """Start munge, the controller and all nodes, and wait until these are idle."""
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        port = free_ports(17_000, 1 + len(self.nodes))
        host = socket.gethostname().partition(".")[0]
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + 1 + index} CPUs=1 RealMemory=1"
            for index, node in enumerate(self.nodes)
        )
        (self.folder / "slurm.conf").write_text(
            _CONF.format(
                host=host,
                port=port,
                folder=self.folder,
                nodes=nodes,
                first_job=free_ports(20_000, MOST_JOBS) - 20_000 or 1,  # job.sbatch takes its port from it
            )
        )
        munge = [
            f"--{name}={self.folder}/munge.{name.partition('-')[0]}"
            for name in ("socket", "pid-file", "seed-file")
        ]
        self._begin("munged", "munged", "--foreground", "--force", f"--key-file={key}", *munge)
        self.wait("munge's socket", lambda: (self.folder / "munge.socket").exists())
        self._begin("slurmctld", "slurmctld", "-D", "-i")
        for node in self.nodes:
            self.start_node(node)
        self.wait("idle nodes", lambda: set(self.states().values()) == {"idle"})

    def start_node(self, node: str) -> None:
        """Start a node: the first process of a namespace, with whose end all others in it end."""
        self._begin(
            node, "unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "slurmd", "-D", "-N", node
        )

    def kill_node(self, node: str) -> None:
        """End every process of a node at one moment, without a word to anybody."""
        node_process = self._daemons.pop(node)
        node_process.kill()  # and by --kill-child the first process of its namespace, and so all
        node_process.wait(WAIT_S)

    def kill_worker(self, number: int) -> None:
        """SIGKILL for a worker of a job. It has another number in its node, as the controller knows it."""
        (process,) = _living(self.folder, {"HOLDTRUE_WORKER_WORKER": str(number)})
        process.kill()

    def _begin(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                command, env=self.env(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def env(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment in which Slurm's commands find this cluster, and holdtrue is found by its name.

        Its runtime folder is one of the session, which a node does not have and nobody can make there.
        """
        own = {
            "SLURM_CONF": f"{self.folder}/slurm.conf",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ADDRESS": "127.0.0.1",
            "XDG_RUNTIME_DIR": f"{self.folder}/slurm.conf/run",
        }
        return environment(own | dict(extra or {}))

    def call(self, *command: str, cwd: Path | None = None) -> str:
        """What one of Slurm's commands prints; it must succeed."""
        ended = subprocess.run(
            command, env=self.env(), cwd=cwd or self.folder, capture_output=True, text=True, timeout=WAIT_S
        )
        assert ended.returncode == 0, f"{' '.join(command)}: {ended.stdout}{ended.stderr}"
        return ended.stdout.strip()

    def begin(self, *command: str, cwd: Path) -> subprocess.Popen[str]:
        """Start a command that stays, such as srun; `close` ends it."""
        self._clients.append(
            subprocess.Popen(
                command, env=self.env(), cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, start_new_session=True,
            )
        )  # fmt: skip
        return self._clients[-1]

    def states(self) -> dict[str, str]:
        """State of each node as sinfo has it, without its marks; empty while the controller does not answer."""
        ended = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--format=%N %T"],
            env=self.env(),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        lines = ended.stdout.splitlines() if ended.returncode == 0 else []
        return {node: state.rstrip("*~#$@+-") for node, state in (line.split() for line in lines)}

    def job(self, number: str) -> dict[str, str]:
        """State and nodes of a job as squeue has them; empty once it is forgotten."""
        ended = subprocess.run(
            ["squeue", "--noheader", "--states=all", f"--jobs={number}", "--format=%T %N"],
            env=self.env(), capture_output=True, text=True, timeout=WAIT_S,
        )  # fmt: skip
        words = ended.stdout.split()
        return {"state": words[0], "nodes": words[1] if len(words) > 1 else ""} if words else {}

    def wait(self, what: str, is_so: Callable[[], T]) -> T:
        """What `is_so` returns, once it is true."""
        until_s = time.monotonic() + WAIT_S
        while time.monotonic() < until_s:
            if found := is_so():
                return found
            time.sleep(LOOK_S)
        raise AssertionError(f"{what} did not come in {WAIT_S:.0f} s\n{self.describe()}")

    def describe(self) -> str:
        """Queue, nodes and the ends of all logs, for a failed test."""
        parts = [
            self._tail(path) for path in sorted(self.folder.glob("*.log")) + sorted(self.folder.glob("*.out"))
        ]
        shown = [subprocess.run(command, env=self.env(), capture_output=True, text=True, timeout=WAIT_S).stdout
                 for command in (["squeue", "--states=all"], ["sinfo", "--Node", "--long"])]  # fmt: skip
        return "\n".join([*shown, *parts])

    def wait_for_the_end(self) -> list[str]:
        """After `close`, command lines of processes that are still there: what was killed needs a moment to go."""
        until_s = time.monotonic() + END_WAIT_S
        while (left := _processes_of(self.folder)) and time.monotonic() < until_s:
            time.sleep(LOOK_S)
        return left

    @staticmethod
    def _tail(path: Path) -> str:
        return f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:])

    def close(self) -> None:
        """End everything: clients, nodes with all that runs on them, daemons."""
        for client in self._clients:
            if client.poll() is None:
                os.killpg(client.pid, signal.SIGKILL)
            client.communicate(timeout=WAIT_S)
        for name in [name for name in self._daemons if name in self.nodes] + ["slurmctld", "munged"]:
            daemon = self._daemons.pop(name, None)
            if daemon is not None:
                daemon.kill()
                daemon.wait(WAIT_S)


def _processes_of(folder: Path) -> list[str]:
    """Command lines of processes that belong to a cluster in this folder."""
    return [" ".join(process.cmdline()) for process in _living(folder, {})]


def _living(folder: Path, variables: Mapping[str, str]) -> list[psutil.Process]:
    """Processes of a cluster in this folder whose environment has these variables."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            env = process.environ()
            is_ours = env.get("SLURM_CONF", "").startswith(str(folder)) and variables.items() <= env.items()
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def free_ports(least: int, count: int) -> int:
    """The first of so many ports in a row, from `least` on, that nobody listens on."""
    for first in range(least, least + 3_000, 97):
        try:
            for port in range(first, first + count):
                with socket.create_server(("127.0.0.1", port)):
                    pass
            return first
        except OSError:
            continue
    raise AssertionError("there is no row of free ports")
