"""Checkpoints: whole or absent, refused by name when damaged, and loadable by anyone."""

import enum
import json
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import Counter, OrderedDict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from holdtrue.engine._checkpoint import (
    checkpoints_to_remove,
    load_checkpoint,
    newest_checkpoint,
    write_checkpoint,
)
from holdtrue.engine._digest import digest_entries, flatten_state
from holdtrue.errors import CheckpointError, UsageError
from holdtrue.plan import Plan

PLAN = Plan(virtual_nodes=4, global_batch_size=8, seed=3, buffers=(("running_*", "mean"),))
FILES = ("manifest.json", "model.safetensors", "state.pt")


def write(
    root: Path,
    step: int,
    *,
    weights: dict[str, Any] | None = None,
    state: object = None,
    keep: int = 9,
    fault: Callable[[str], None] | None = None,
) -> Path:
    """A checkpoint whose weights and state tell its step."""
    return write_checkpoint(
        root,
        step=step,
        weights={"model": {"w": torch.full((3,), float(step))}} if weights is None else weights,
        state={"position": step} if state is None else state,
        plan=PLAN,
        digest=f"{step:064x}",
        keep=keep,
        generation=2,
        fault=fault,
    )


def steps_of(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "checkpoints").iterdir())


def digest_of(state: object) -> str:
    return digest_entries(dict(flatten_state(state)))[0]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = write(tmp_path, 40)
    assert path == tmp_path / "checkpoints" / "step-00000040"
    assert sorted(file.name for file in path.iterdir()) == list(FILES)
    checkpoint = load_checkpoint(path)
    assert (checkpoint.path, checkpoint.step, checkpoint.generation) == (path, 40, 2)
    assert (checkpoint.plan, checkpoint.digest) == (PLAN, f"{40:064x}")
    assert torch.equal(checkpoint.weights["model"]["w"], torch.full((3,), 40.0))
    assert checkpoint.state == {"position": 40}


def test_anyone_can_load_the_weights_of_a_model_with_tied_and_strided_tensors(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight
            flat = torch.randn(6)
            self.register_buffer("first", flat[:3])
            self.register_buffer("second", flat[3:])
            self.register_buffer("turned", torch.randn(2, 3).T)
            self.register_buffer("steps", torch.tensor(7))
            self.register_buffer("empty", torch.zeros(0))

    model, other = Tied(), Tied()
    path = write(tmp_path, 0, weights={"model": model.state_dict()})
    other.load_state_dict(safetensors.torch.load_file(path / "model.safetensors"))
    assert digest_of(other.state_dict()) == digest_of(model.state_dict())
    assert other.head.weight is other.embedding.weight
    with safetensors.safe_open(path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_several_models_come_back_in_their_order(tmp_path: Path) -> None:
    stems = [f"model-{i}" for i in range(11)]
    weights = {stem: {"w": torch.tensor([float(i)])} for i, stem in enumerate(stems)}
    loaded = load_checkpoint(write(tmp_path, 1, weights=weights)).weights
    assert list(loaded) == stems
    assert [loaded[stem]["w"].item() for stem in stems] == list(range(11))


def test_the_state_of_optimizers_and_schedulers_comes_back_in_every_bit(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.1))
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    scheduler.step()
    state = {"optimizers": [optimizer.state_dict()], "schedulers": [scheduler.state_dict()]}
    loaded = load_checkpoint(write(tmp_path, 1, state=state)).state
    assert digest_of(loaded) == digest_of(state)
    again = torch.optim.AdamW(model.parameters())
    again.load_state_dict(loaded["optimizers"][0])
    torch.optim.lr_scheduler.MultiStepLR(again, [9]).load_state_dict(loaded["schedulers"][0])


class Color(enum.IntEnum):
    RED = 3


class Name(str, enum.Enum):  # noqa: UP042 - str() of its members is not their value
    ANNA = "anna"


Pair = namedtuple("Pair", "a b")


def test_states_of_every_kind_come_back_without_code(tmp_path: Path) -> None:
    odd = torch.tensor([0x7F800001, -1], dtype=torch.int32).view(torch.float32)
    state = {
        "plain": [None, True, 3, 2**70, 0.1, 1j, "text", b"bytes", (1, [2])],
        "numpy": np.random.RandomState(0).get_state(),
        "scalar": np.float64(0.1),
        "swapped": np.arange(3, dtype=">i4"),
        "wide": np.array([1 + 2j]),
        "kept": [OrderedDict(b=1, a=2), Counter({2: 1})],
        "tensors": [odd, torch.ones(3, dtype=torch.bfloat16), torch.eye(3).T[1:], torch.tensor([1j]).conj()],
        7: torch.zeros(2, dtype=torch.float8_e5m2),
    }
    loaded = load_checkpoint(write(tmp_path, 1, state=state)).state
    assert digest_of(loaded) == digest_of(state)
    assert list(loaded) == list(state)
    assert [type(x) for x in loaded["kept"]] == [OrderedDict, Counter]
    assert list(loaded["kept"][0]) == ["b", "a"]
    assert type(loaded["scalar"]) is np.float64
    assert torch.equal(loaded["tensors"][0].view(torch.int32), odd.view(torch.int32))
    np.random.RandomState(1).set_state(loaded["numpy"])


def test_subclasses_come_back_as_the_plain_values_that_they_are(tmp_path: Path) -> None:
    state = {"e": Color.RED, "n": Name.ANNA, Name.ANNA: Pair(1, 2), "size": torch.Size([1, 2])}
    loaded = load_checkpoint(write(tmp_path, 1, state=state)).state
    assert loaded == {"e": 3, "n": "anna", "anna": (1, 2), "size": (1, 2)}
    assert [type(loaded[k]) for k in ("e", "n", "anna", "size")] == [int, str, tuple, tuple]
    assert all(type(key) is str for key in loaded)


def test_a_view_into_large_memory_is_saved_without_the_memory(tmp_path: Path) -> None:
    path = write(tmp_path, 1, state={"view": torch.zeros(1_000_000)[:2]})
    assert (path / "state.pt").stat().st_size < 10_000


@pytest.mark.parametrize(
    ("weights", "state", "words"),
    [
        ({"model": {}}, {"registered": {"ema": {"f": len}}}, "registered/ema/f is a builtins.builtin_"),
        ({"model": {}}, {"x": {"holdtrue.numpy": 1}}, "has the key 'holdtrue.numpy'"),
        (
            {"model": {"f": torch.zeros(1, dtype=torch.complex128)}},
            {},
            "model/f is a tensor of torch.complex128",
        ),
        ({"model": {"_extra_state": 3}}, {}, "model/_extra_state is a int"),
        ({"model": {"w": torch.eye(2).to_sparse()}}, {}, "model/w is a tensor of kind torch.sparse_coo"),
        ({"../model": {}}, {}, "'../model' is the name of a file of weights"),
    ],
)
def test_what_cannot_be_saved_is_refused_by_name_and_leaves_nothing(
    tmp_path: Path, weights: dict[str, Any], state: object, words: str
) -> None:
    write(tmp_path, 1)
    with pytest.raises(UsageError, match=words):
        write(tmp_path, 2, weights=weights, state=state)
    assert steps_of(tmp_path) == ["step-00000001"]


def test_numbers_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="keep_checkpoints is 0"):
        write(tmp_path, 1, keep=0)
    with pytest.raises(UsageError, match="step of a checkpoint is -1"):
        write(tmp_path, -1)


def damages(content: bytes) -> list[tuple[str, bytes]]:
    """Truncations and flipped bits at many offsets, of every byte for a small file."""
    stride = max(1, len(content) // 150)
    cut = [(f"cut to {n}", content[:n]) for n in range(0, len(content), stride)]
    flipped = []
    for place in range(0, len(content), stride):
        copy = bytearray(content)
        copy[place] ^= 1 << (place % 8)
        flipped.append((f"bit {place % 8} of byte {place}", bytes(copy)))
    return [*cut, *flipped, ("grown", content + b"\n")]


@pytest.mark.parametrize("name", FILES)
def test_any_damage_is_refused_by_file_and_the_older_checkpoint_is_used(tmp_path: Path, name: str) -> None:
    write(tmp_path, 20)
    path = write(tmp_path, 40)
    content = (path / name).read_bytes()
    for what, damaged in damages(content):
        (path / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"step-00000040 is damaged: {name} "):
            load_checkpoint(path)
        found, sentences = newest_checkpoint(tmp_path)
        assert found is not None, what
        assert found.step == 20, what
        assert len(sentences) == 1
        assert sentences[0].startswith(f"checkpoint step-00000040 is damaged: {name} ")
        assert sentences[0].endswith("; using step-00000020")
    (path / name).write_bytes(content)
    found, sentences = newest_checkpoint(tmp_path)
    assert (found and found.step, sentences) == (40, ())


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, 40)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_checkpoint(path)
    found, sentences = newest_checkpoint(tmp_path)
    assert found is None
    assert sentences == (f"checkpoint step-00000040 is damaged: {name} is missing; no older one is whole",)


def test_a_manifest_that_lies_about_its_files_in_good_form_is_still_refused(tmp_path: Path) -> None:
    from holdtrue.engine._manifest import encode_manifest

    path = write(tmp_path, 40)
    values = json.loads((path / "manifest.json").read_bytes())
    for key in ("format", "manifest_sha256"):
        del values[key]
    values["files"]["state.pt"]["sha256"] = "0" * 64
    (path / "manifest.json").write_bytes(encode_manifest(values))
    with pytest.raises(CheckpointError, match=r"state\.pt does not have the SHA-256"):
        load_checkpoint(path)


def test_a_missing_folder_and_no_checkpoints_at_all_are_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the folder is missing"):
        load_checkpoint(tmp_path / "checkpoints" / "step-00000001")
    assert newest_checkpoint(tmp_path) == (None, ())


def test_only_the_last_few_are_kept_and_later_steps_are_let_be(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        write(tmp_path, step, keep=2)
    assert steps_of(tmp_path) == ["step-00000030", "step-00000040"]
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000030")
    (tmp_path / "checkpoints" / "step-00000040" / "state.pt").write_bytes(b"")
    write(tmp_path, 35, keep=1)  # the run was resumed from before step 40, whose checkpoint is damaged
    assert steps_of(tmp_path) == ["step-00000035", "step-00000040"]
    found, _ = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 35


@pytest.mark.parametrize(
    ("steps", "keep", "removed"),
    [((), 1, ()), ((3, 1, 2), 3, ()), ((3, 1, 2), 1, (1, 2)), ((5, 100, 20), 2, (5,))],
)
def test_the_oldest_steps_are_removed(steps: tuple[int, ...], keep: int, removed: tuple[int, ...]) -> None:
    assert checkpoints_to_remove(steps, keep) == removed


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, 40, state={"try": 1})
    path = write(tmp_path, 40, state={"try": 2})
    assert load_checkpoint(path).state == {"try": 2}
    assert steps_of(tmp_path) == ["step-00000040"]


def test_leftovers_of_crashed_writes_are_removed_and_never_read(tmp_path: Path) -> None:
    whole = write(tmp_path, 20)
    shutil.copytree(whole, whole.with_name(".writing-step-00000040"))
    (whole.with_name("step-notes")).mkdir()
    found, sentences = newest_checkpoint(tmp_path)
    assert (found and found.step, sentences) == (20, ())
    write(tmp_path, 30)
    assert steps_of(tmp_path) == ["step-00000020", "step-00000030", "step-notes"]


@pytest.mark.parametrize("limit_bytes", [100, 3000, 8500])
def test_a_full_disk_is_an_oserror_and_leaves_what_was_there(tmp_path: Path, limit_bytes: int) -> None:
    write(tmp_path, 20)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = {"model": {"w": torch.zeros(1000)}}, {"x": torch.zeros(2000)}  # 4 kB, then 8 kB and a frame
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(tmp_path, 40, weights=sizes[0], state=sizes[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert steps_of(tmp_path) == ["step-00000020"]


POINTS = ("folder", "weights", "state", "manifest", "aside", "renamed", "done")

KILLER = """
    import os, signal, sys, torch
    from holdtrue.engine._checkpoint import write_checkpoint
    from holdtrue.plan import Plan
    torch.set_num_threads(1)

    def write(root, step, text, fault=None):
        write_checkpoint(
            root, step=step, weights={"model": {"w": torch.zeros(3)}}, state={"text": text}, digest="",
            keep=2, plan=Plan(virtual_nodes=1, global_batch_size=1), generation=0, fault=fault)

    for point in sys.argv[2:]:
        root = os.path.join(sys.argv[1], point)
        for step in (10, 20, 40) if point == "aside" else (10, 20):
            write(root, step, "old")
        read, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            def fault(reached):
                if reached == point:
                    os.write(tell, b"x")
                    signal.pause()
            write(root, 40, "new", fault)
            os._exit(3)
        os.close(tell)
        fired = os.read(read, 1) == b"x"
        os.kill(pid, signal.SIGKILL)
        print(point, fired, os.WTERMSIG(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directories by point: each of them had a writer of step 40 killed there."""
    base = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-c", textwrap.dedent(KILLER), str(base), *POINTS]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.splitlines() == [f"{point} True {int(signal.SIGKILL)}" for point in POINTS]
    return base


@pytest.mark.parametrize("point", POINTS)
def test_a_writer_killed_at_any_point_leaves_a_whole_checkpoint_and_a_folder_to_go_on_with(
    killed: Path, point: str
) -> None:
    root = killed / point
    found, sentences = newest_checkpoint(root)
    assert found is not None
    expected = {"aside": (40, "old"), "renamed": (40, "new"), "done": (40, "new")}.get(point, (20, "old"))
    assert (found.step, found.state["text"], sentences) == (*expected, ())
    write(root, 50, keep=2)
    names = steps_of(root)
    assert names == [f"step-{max(step for step in (20, found.step)):08d}", "step-00000050"]
    for name in names:
        load_checkpoint(root / "checkpoints" / name)
