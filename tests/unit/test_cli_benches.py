"""Which devices `holdtrue profile` measures, and what torch is asked about them."""

import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from holdtrue.cli._profile import choose_benches, parse_sizes
from holdtrue.errors import UsageError
from holdtrue.launch import kind_of_model, name_cuda_devices

HOST = ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3")


def benches(
    devices: str | None, *, device: str = "auto", gpus: tuple[str, ...] = HOST
) -> dict[str, tuple[str, ...]]:
    found = choose_benches(devices, device, slots=4, cuda_devices=len(gpus), gpus=lambda: gpus)
    return {bench.kind: bench.devices for bench in found}


def test_each_model_of_gpu_is_a_kind_that_is_measured() -> None:
    assert benches(None) == {
        "cpu": ("cpu", "cpu"),
        "h100-80gb-hbm3": ("cuda:0", "cuda:2"),
        "a100-sxm4-40gb": ("cuda:1",),
    }
    assert list(benches(None, device="cuda")) == ["h100-80gb-hbm3", "a100-sxm4-40gb"]
    assert list(benches(None, device="cpu")) == ["cpu"]


def test_cuda_in_the_list_is_every_model_that_is_here() -> None:
    assert benches("cuda:1") == {"h100-80gb-hbm3": ("cuda:0",), "a100-sxm4-40gb": ("cuda:1",)}
    assert benches("cpu:3,cuda:2") == {
        "cpu": ("cpu",) * 3,
        "h100-80gb-hbm3": ("cuda:0", "cuda:2"),
        "a100-sxm4-40gb": ("cuda:1",),
    }
    assert benches("a100-sxm4-40gb:1") == {"a100-sxm4-40gb": ("cuda:1",)}


@pytest.mark.parametrize(
    ("devices", "gpus", "sentence"),
    [
        (
            "cuda:3",
            HOST,
            "--devices names 3 of cuda, and this machine has 2; a pass is measured on a GPU of its own",
        ),
        ("a100-sxm4-40gb:2", HOST, "names 2 of a100-sxm4-40gb, and this machine has 1"),
        ("cpu:5000", HOST, "names 5000 of cpu; 4096 workers are the most that a job has. Name fewer"),
        ("v100:1", HOST, "names v100, and this machine has cpu, h100-80gb-hbm3, a100-sxm4-40gb"),
        ("cuda:1", (), "names cuda, and this machine has cpu; a kind is measured where it is"),
    ],
)
def test_devices_that_are_not_here_are_refused(devices: str, gpus: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        benches(devices, gpus=gpus)
    with pytest.raises(UsageError, match="--device is cuda and this machine shows none"):
        benches(None, device="cuda", gpus=())


def answer(out: str, *, status: int = 0, err: str = "") -> Any:  # Any: stands for subprocess.run
    def run(command: list[str], *, env: Mapping[str, str], **_: object) -> "subprocess.CompletedProcess[str]":
        assert env["CUDA_VISIBLE_DEVICES"] == "0,1"
        return subprocess.CompletedProcess(command, status, out, err)

    return run


@pytest.mark.parametrize(
    "text", ["", "8,", "0", "-8", "8.5", "eight", "\u0668", "1000000000", "8," + "9" * 5000]
)
def test_sizes_that_no_pass_can_have_are_refused(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"whole numbers of 1 or more, below a billion, .* Write it like 8,16,32"
    ) as caught:
        parse_sizes(text)
    assert len(str(caught.value)) < 250


def test_torch_is_asked_for_the_names_in_its_own_order() -> None:
    env = {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert name_cuda_devices(env, ask=answer("NVIDIA H100\nTesla V100\n")) == ("NVIDIA H100", "Tesla V100")
    assert name_cuda_devices(env, ask=answer("\n")) == ()
    with pytest.raises(UsageError, match=r"torch could not say which CUDA devices are here \(no driver\)"):
        name_cuda_devices(env, ask=answer("", status=1, err="trace\nno driver\n"))

    def late(*_: object, **__: object) -> Any:  # Any: never returns
        raise subprocess.TimeoutExpired("python", 120)

    with pytest.raises(UsageError, match="torch could not be asked"):
        name_cuda_devices(env, ask=late)


def test_the_real_question_runs_here() -> None:
    import os

    assert all(kind_of_model(name) for name in name_cuda_devices(os.environ))
