"""Where `holdtrue run --devices` begins: V, mapping and devices, or a sentence."""

import json
from pathlib import Path

import pytest

from holdtrue.cli._run import frozen_plan
from holdtrue.cli._start import Start, StartRequest, choose_start
from holdtrue.errors import HoldtrueError, PlanError, UsageError
from holdtrue.mapping import parse_mapping
from holdtrue.plan import Plan
from holdtrue.profile import DeviceProfile, PassPoint, Profile, write_profile
from holdtrue.run import resolve_settings
from holdtrue.run._expected import refuse_difference
from holdtrue.wire import Setting, encode_settings

MIB = 1024**2


def device(kind: str, speed: float, **fields: object) -> DeviceProfile:
    points = tuple(PassPoint(batch_size=b, seconds=b / speed, peak_bytes=b * 10 * MIB) for b in (8, 16, 32))
    return DeviceProfile(kind=kind, torch_version="2.13.0", date="2026-11-25", points=points, **fields)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "net.json"
    profile = Profile(
        model_name="net",
        model_hash="ab12",
        devices=(device("cpu", 100.0, name="One core"), device("cuda", 300.0, name="One GPU")),
        virtual_nodes=8,
        global_batch_size=128,
    )
    write_profile(profile, found)
    return found


def start(
    devices: str,
    *profiles: Path,
    memory: tuple[str, ...] = (),
    is_auto: bool = False,
    gpus: tuple[str, ...] = ("One GPU",),
    workers: int | None = None,
    has_mapping: bool = False,
    **force: Setting,
) -> Start:
    request = StartRequest(devices=devices, profiles=profiles, memory=memory, is_auto=is_auto)
    return choose_start(
        request,
        force=force,
        cuda_devices=len(gpus),
        gpus=lambda: gpus,
        workers=workers,
        has_mapping=has_mapping,
    )


def test_the_starting_mapping_is_the_solvers_and_the_plan_is_frozen(path: Path) -> None:
    found = start("cuda:1", path)
    assert (found.devices, found.mapping, found.virtual_nodes) == (("cuda:0",), "0-7", 8)
    found = start("cpu:2", path, global_batch_size=64, virtual_nodes=4)
    assert (found.devices, found.mapping) == (("cpu", "cpu"), "0-1/2-3")
    assert found.settings() == {"virtual_nodes": 4, "global_batch_size": 64}
    assert "4 virtual nodes x 16 (cpu 2, cpu 2)" in found.notes[0]


def test_devices_of_two_kinds_share_by_their_measured_speeds(path: Path) -> None:
    found = start("cpu:1,cuda:1", path)
    assert (found.devices, found.mapping) == (("cpu", "cuda:0"), "4-5/0-3,6-7")
    assert json.loads(found.costs or "")["memory"] == {}


def test_auto_takes_the_solvers_number_of_virtual_nodes(path: Path) -> None:
    found = start("cpu:2", path, is_auto=True, global_batch_size=64)
    assert (found.virtual_nodes, found.mapping) == (2, "0/1")


def test_memory_makes_a_pass_too_large_and_the_error_says_the_largest_that_fits_and_its_virtual_nodes(
    path: Path,
) -> None:
    with pytest.raises(PlanError, match=r"largest pass that would fit is 8: use 16 virtual nodes or more"):
        start("cpu:2", path, memory=("cpu=100MiB",))
    found = start("cpu:2", path, memory=("cpu=100MiB",), is_auto=True)
    assert found.virtual_nodes == 16
    assert found.mapping == "0-7/8-15"


def test_a_device_whose_own_limit_is_too_small_stands_by_and_keeps_doing_so(path: Path) -> None:
    found = start("cpu:3", path, memory=("cpu:1=100MiB", "cpu=1GiB"))
    assert found.mapping == "0-3/none/4-7"
    costs = json.loads(found.costs or "")
    assert costs["kinds"] == ["cpu.0", "cpu.1", "cpu.2"]
    assert costs["memory"]["cpu.1"] == 100 * MIB
    assert costs["memory"]["cpu.2"] == 1024 * MIB
    with pytest.raises(UsageError, match="--memory names cpu:3, and there is no such device"):
        start("cpu:3", path, memory=("cpu:3=100MiB",))
    assert json.loads(found.expected or "")["devices"] == {"cpu": ["One core"]}


def test_workers_learn_what_the_profile_was_measured_with(path: Path) -> None:
    expected = json.loads(start("cpu:2", path).expected or "")
    assert expected == {
        "profile": str(path),
        "model_hash": "ab12",
        "torch": "2.13.0",
        "script": {"global_batch_size": 128, "virtual_nodes": 8},
        "devices": {"cpu": ["One core"]},
    }


def test_a_script_whose_plan_has_changed_since_it_was_measured_is_refused(path: Path) -> None:
    script = {
        "virtual_nodes": 8, "global_batch_size": 128, "seed": 0, "numerics": "exact",
        "weight_unit": None, "buffers": None, "run_dir": None,
    }  # fmt: skip
    found = start("cpu:2", path)
    env = encode_settings({**found.settings(), "expected": found.expected or ""})
    plan, _ = resolve_settings(script, env)
    assert plan.virtual_nodes == 8
    with pytest.raises(UsageError, match="the script has global_batch_size 256, and it had 128 when"):
        resolve_settings(script | {"global_batch_size": 256}, env)
    given = start("cpu:2", path, global_batch_size=64)  # the command line's own word is not compared
    resolve_settings(
        script | {"global_batch_size": 256},
        encode_settings({**given.settings(), "expected": given.expected or ""}),
    )


def test_devices_of_one_kind_need_no_profile_and_share_evenly() -> None:
    found = start("cpu:3")
    assert (found.devices, found.mapping, found.virtual_nodes, found.settings()) == (
        ("cpu",) * 3,
        None,
        None,
        {},
    )


def test_every_virtual_node_has_a_worker_in_a_mapping_that_was_solved(path: Path) -> None:
    for count in (1, 2, 3, 5, 9):
        found = start(f"cpu:{count}", path)
        assert found.mapping is not None
        assert parse_mapping(found.mapping, 8).world_size == count


@pytest.mark.parametrize(
    ("devices", "options", "error", "sentence"),
    [
        ("cpu2", {}, UsageError, "each entry is KIND:COUNT"),
        ("tpu:2", {}, UsageError, "--devices names tpu, and this machine has cpu and 1 cuda .one-gpu."),
        ("cuda:1", {"gpus": ()}, UsageError, "this machine has cpu alone"),
        ("cpu:2", {"workers": 3}, UsageError, "--workers is 3 and --devices names 2"),
        ("cpu:2", {"has_mapping": True}, UsageError, "a mapping is yours or the solver's"),
        (
            "cpu:2",
            {"threads": 4},
            UsageError,
            "cpu was measured with 1 thread.s. a worker, and this job has 4",
        ),
        ("cpu:2", {"virtual_nodes": 2}, PlanError, "largest pass that would fit is 32: use 4 virtual nodes"),
        ("cpu:2", {"numerics": "exactly"}, UsageError, "the levels are exact, portable, fast"),
    ],
)
def test_wrong_input_is_a_sentence(
    path: Path, devices: str, options: dict[str, int], error: type[HoldtrueError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        start(devices, path, **options)  # type: ignore[arg-type]


def test_what_needs_measured_passes_says_so_without_a_profile() -> None:
    for options in ({"is_auto": True}, {"memory": ("cpu=1GiB",)}):
        with pytest.raises(UsageError, match="needs measured passes, and no --profile is given"):
            start("cpu:2", **options)  # type: ignore[arg-type]


def test_a_kind_without_a_profile_and_a_plan_that_nobody_named_are_refused(tmp_path: Path) -> None:
    write_profile(Profile(model_name="net", devices=(device("gpu", 1.0),)), tmp_path / "other.json")
    with pytest.raises(UsageError, match="no profile for cpu; this one has gpu"):
        start("cpu:1", tmp_path / "other.json")
    write_profile(Profile(model_name="net", devices=(device("cpu", 1.0),)), tmp_path / "old.json")
    with pytest.raises(UsageError, match=r"neither the command line nor .* says --global-batch-size"):
        start("cpu:1", tmp_path / "old.json")
    with pytest.raises(UsageError, match="says --virtual-nodes"):
        start("cpu:1", tmp_path / "old.json", global_batch_size=64)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("model_hash", "cd34", "a model whose parameters have layout ab12, and this job has cd34"),
        ("torch", "2.14.0", r"measured with torch 2\.13\.0, and this job has 2\.14\.0"),
        ("device", "Another core", "measured with the device One core, and this job has Another core"),
    ],
)
def test_a_profile_of_another_model_torch_or_device_is_refused_by_the_worker(
    key: str, value: str, sentence: str
) -> None:
    here = {"model_hash": "ab12", "torch": "2.13.0", "device": "One core"}
    refuse_difference(here | {"profile": "net.json"}, here)
    with pytest.raises(UsageError, match=sentence):
        refuse_difference(here | {"profile": "net.json"}, here | {key: value})


# ---- GPUs: fakes of what torch says of them ----

HOST = ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    found = tmp_path / "gpus.json"
    devices = (
        device("cpu", 10.0, name="One core"),
        device("h100-80gb-hbm3", 400.0, name=HOST[0], type="cuda", memory_bytes=1200 * MIB),
        device("a100-sxm4-40gb", 200.0, name=HOST[1], type="cuda", memory_bytes=800 * MIB),
    )
    write_profile(Profile(model_name="net", devices=devices, virtual_nodes=8, global_batch_size=128), found)
    return found


def counts(found: Start) -> dict[str, list[int]]:
    """By device, the virtual nodes of its workers."""
    assert found.mapping is not None
    held = parse_mapping(found.mapping, found.virtual_nodes or 0).held
    by_device: dict[str, list[int]] = {}
    for name, ids in zip(found.devices, held, strict=True):
        by_device.setdefault(name, []).append(len(ids))
    return by_device


def test_two_models_of_gpu_in_one_host_are_two_kinds_and_each_has_its_measured_speed(mixed: Path) -> None:
    found = start("cuda:3", mixed, gpus=HOST, virtual_nodes=5, global_batch_size=80)
    places = json.loads(found.costs or "")
    assert found.devices == ("cuda:0", "cuda:2", "cuda:1")
    assert (places["kinds"], places["devices"]) == (
        ["h100-80gb-hbm3", "h100-80gb-hbm3", "a100-sxm4-40gb"],
        ["cuda:0", "cuda:2", "cuda:1"],
    )
    assert counts(found) == {"cuda:0": [2], "cuda:2": [2], "cuda:1": [1]}
    assert json.loads(found.expected or "")["devices"] == {"cuda": [HOST[0], HOST[1]]}


def test_a_kind_names_the_gpus_of_its_model_wherever_they_are_numbered(mixed: Path) -> None:
    assert start("a100-sxm4-40gb:1", mixed, gpus=HOST).devices == ("cuda:1",)
    assert start("h100-80gb-hbm3:2,cpu:1", mixed, gpus=HOST).devices == ("cuda:0", "cuda:2", "cpu")
    assert start("h100-80gb-hbm3:2", gpus=HOST).devices == ("cuda:0", "cuda:2")
    with pytest.raises(
        UsageError,
        match=r"names v100, and this machine has cpu and 3 cuda \(h100-80gb-hbm3, a100-sxm4-40gb\)",
    ):
        start("v100:1", mixed, gpus=HOST)
    with pytest.raises(
        UsageError, match=r"cuda:0 is of kind b200 \(NVIDIA B200\), and there is no profile for it"
    ):
        start("cuda:1", mixed, gpus=("NVIDIA B200",))


def test_limits_follow_the_devices_that_the_list_means(mixed: Path) -> None:
    found = start("cuda:3", mixed, gpus=HOST, memory=("cuda=1GiB", "cuda:1=100MiB"))
    assert counts(found) == {"cuda:0": [4], "cuda:2": [4], "cuda:1": [0]}
    memory = json.loads(found.costs or "")["memory"]
    assert memory["h100-80gb-hbm3"] == 1024 * MIB
    assert memory["a100-sxm4-40gb.0"] == 100 * MIB
    with pytest.raises(UsageError, match="--memory names cuda:3, and there is no such device"):
        start("cuda:3", mixed, gpus=HOST, memory=("cuda:3=1GiB",))


def test_workers_that_share_a_gpu_have_a_part_of_its_speed_and_memory_and_the_user_is_told(
    mixed: Path,
) -> None:
    alone = start("cpu:4,cuda:1", mixed, gpus=(HOST[1],), virtual_nodes=64, global_batch_size=1024)
    shared = start("cpu:4,cuda:3", mixed, gpus=(HOST[1],), virtual_nodes=64, global_batch_size=1024)
    assert shared.devices == ("cpu",) * 4 + ("cuda:0",) * 3
    assert shared.notes[0].startswith(
        "3 workers share cuda:0: each counts as one with 1/3 of its speed and memory"
    )
    gpu_alone, gpu_shared = counts(alone)["cuda:0"], counts(shared)["cuda:0"]
    assert abs(sum(gpu_shared) - sum(gpu_alone)) <= 3, "three parts of a GPU are one GPU"
    # A pass of 32 needs 320 MiB: half of 800 MiB holds it, a third does not.
    assert start("cuda:2", mixed, gpus=(HOST[1],), virtual_nodes=4).mapping == "0-1/2-3"
    with pytest.raises(PlanError, match=r"largest pass that would fit is 16: use 8 virtual nodes or more"):
        start("cuda:3", mixed, gpus=(HOST[1],), virtual_nodes=4)


def test_a_profile_from_before_kinds_were_models_is_read_by_the_name_of_its_device(path: Path) -> None:
    assert start("cuda:1", path).mapping == "0-7"
    with pytest.raises(
        UsageError, match=r"cuda:0 is of kind other-gpu \(Other GPU\), and there is no profile for it"
    ):
        start("cuda:1", path, gpus=("Other GPU",))


def test_names_of_gpus_are_not_asked_for_where_nobody_needs_them(path: Path) -> None:
    def refuse() -> tuple[str, ...]:
        raise AssertionError("torch was loaded")

    for words, profiles in (("cpu:2", (path,)), ("cuda:2", ())):
        request = StartRequest(devices=words, profiles=profiles)
        choose_start(request, force={}, cuda_devices=1, gpus=refuse, workers=None, has_mapping=False)


def test_a_run_that_goes_on_keeps_the_virtual_nodes_that_auto_chose_when_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "train-20261128-120000"
    folder.mkdir(parents=True)
    assert frozen_plan("train.py", None, folder, {}) == {}, "a run that wrote no plan has not begun"
    plan = Plan(virtual_nodes=12, global_batch_size=96)
    (folder / "plan.json").write_text(json.dumps(plan.to_dict()))
    frozen = {"virtual_nodes": 12, "global_batch_size": 96}
    assert frozen_plan("train.py", None, folder, {}) == frozen
    assert frozen_plan("train.py", None, None, {}) == frozen
    with pytest.raises(UsageError, match="there is no run of"):
        frozen_plan("other.py", None, None, {})
