"""`holdtrue plan`: the screen, the JSON and the refusals."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from holdtrue.cli._plan import add_to
from holdtrue.errors import HoldtrueError, PlanError, UsageError
from holdtrue.mapping import parse_mapping
from holdtrue.profile import DeviceProfile, PassPoint, Profile, write_profile

GIB = 1024**3


@pytest.fixture
def profile_path(tmp_path: Path) -> Path:
    speeds = {
        "v100": {8: 91.28, 16: 110.60, 32: 123.19, 48: 128.58},
        "p100": {8: 56.99, 16: 65.91, 32: 71.63, 48: 73.48},
    }
    devices = tuple(
        DeviceProfile(
            kind=kind,
            torch_version="2.13.0",
            date="2026-11-23",
            memory_bytes=16 * GIB,
            points=tuple(
                PassPoint(batch_size=b, seconds=b / speed, peak_bytes=GIB + b * GIB // 8)
                for b, speed in points.items()
            ),
        )
        for kind, points in speeds.items()
    )
    path = tmp_path / "bert.json"
    write_profile(Profile(model_name="bert", model_hash="ab12", devices=devices), path)
    return path


def invoke(*words: str) -> str:
    """The command's stdout; its error is raised."""
    app = typer.Typer()
    app.callback()(lambda: None)
    add_to(app)
    result = CliRunner().invoke(app, ["plan", *words], env={"COLUMNS": "120"})
    if isinstance(result.exception, HoldtrueError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def base(path: Path) -> list[str]:
    return ["--profile", str(path), "--devices", "p100:8,v100:4", "--global-batch-size", "256"]


def test_the_screen_names_plan_mapping_time_memory_gain_rival_and_the_price_of_fixed_shapes(
    profile_path: Path,
) -> None:
    screen = " ".join(invoke(*base(profile_path)).split())
    for text in (
        "global batch 256 = 16 virtual nodes x 16",
        "numerics exact",
        "v100:0-3 2 each 2 x 16",
        "p100:0-7 1 each 1 x 16",
        "3.0 GiB of 16.0 GiB",
        "884.8 examples/s",
        "p100:8 alone 573.04 examples/s",
        "+54.4 % over the best one-type choice",
        "runner-up 32 virtual nodes x 8: a step takes 0.3506 s, 21.2 % more",
        "--fast would reach 985.52 examples/s (+11.4 %)",
    ):
        assert text in screen


def test_fast_fuses_virtual_nodes_and_says_so(profile_path: Path) -> None:
    screen = " ".join(invoke(*base(profile_path), "--fast").split())
    assert "1 x 32, fused" in screen
    assert "985.52 examples/s" in screen
    assert "fixed shapes" not in screen


def test_json_has_the_whole_answer(profile_path: Path) -> None:
    found = json.loads(invoke(*base(profile_path), "--json"))
    assert (found["format"], found["version"], found["virtual_nodes"]) == ("holdtrue.plan", 1, 16)
    mapping = parse_mapping(found["mapping"], 16)
    assert [len(ids) for ids in mapping.held] == [device["virtual_nodes"] for device in found["devices"]]
    assert found["examples_per_second"] == pytest.approx(256 / found["step_seconds"])
    assert found["devices"][0]["memory_bytes"] == 3 * GIB
    assert found["fast_examples_per_second"] == pytest.approx(985.52, rel=1e-4)
    assert found["runner_up"]["answer"]["virtual_nodes"] == 32
    assert [one["kind"] for one in found["one_type"]] == ["p100", "v100"]
    assert found["idle"] == []


def test_virtual_nodes_may_be_given_and_idle_devices_are_explained(profile_path: Path) -> None:
    screen = " ".join(invoke(*base(profile_path), "--virtual-nodes", "10").split())
    assert "global batch 256 = 10 virtual nodes x 26" in screen
    assert "idle 2 x v100: all 10 virtual nodes have a device of their own" in screen


def test_memory_limits_make_standbys(profile_path: Path) -> None:
    found = json.loads(
        invoke(*base(profile_path), "--json", "--virtual-nodes", "16", "--memory", "v100=2GiB")
    )
    assert [(idle["kind"], idle["standby"]) for idle in found["idle"]] == [("v100", True)]
    assert "needs 3.0 GiB, and it has 2.0 GiB" in found["idle"][0]["reason"]


@pytest.mark.parametrize(
    ("words", "error", "sentence"),
    [
        (["--devices", "v100"], UsageError, "each entry is KIND:COUNT"),
        (["--devices", "a100:2"], UsageError, "no profile for a100; this one has p100, v100"),
        (["--virtual-nodes", "many"], UsageError, "a whole number of 1 or more, or auto"),
        (
            ["--virtual-nodes", "9" * 5000],
            UsageError,
            r"9\.\.\.'; it is a whole number of 1 or more, or auto",
        ),
        (["--virtual-nodes", "0"], UsageError, "a whole number of 1 or more, or auto"),
        (
            ["--virtual-nodes", "4"],
            PlanError,
            "largest pass that would fit is 48: use 6 virtual nodes or more",
        ),
        (
            ["--global-batch-size", "9" * 30],
            PlanError,
            r"global_batch_size is 9{30}, and the largest pass that was measured has 48 examples; a plan has at most 1048576",
        ),
        (
            ["--global-batch-size", "999999999"],
            PlanError,
            "global_batch_size is 999999999, and the largest pass .* Lower it",
        ),
        (["--memory", "a100=2GiB"], UsageError, "--memory names a100, and --devices does not"),
        (["--devices", "v100:999999"], UsageError, "has 999999 devices; at most 65536 are planned for"),
        (
            ["--devices", "v100:99999999"],
            UsageError,
            "has 99999999 devices; at most 65536 are planned for. Name fewer",
        ),
        (["--devices", "v100:" + "9" * 5000], UsageError, r"has 9{40}\.\.\. devices; at most 65536"),
        (["--devices", "v100:65536,p100:1"], UsageError, "has 65537 devices; at most 65536"),
        (["--model", "gpt"], UsageError, "is of model bert"),
        (["--torch", "2.14.0"], UsageError, r"measured with torch 2\.13\.0, and the job runs 2\.14\.0"),
        (["--profile", "missing.json"], UsageError, r"missing\.json cannot be read"),
    ],
)
def test_wrong_input_is_refused_in_a_sentence(
    profile_path: Path, words: list[str], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        invoke(*base(profile_path), *words)


def change(path: Path, **values: object) -> Path:
    """Another file with some of the profile's values changed."""
    found = path.with_name("changed.json")
    found.write_text(json.dumps(json.loads(path.read_text()) | values))
    return found


def test_names_in_a_profile_are_shown_as_they_are(profile_path: Path) -> None:
    named = change(profile_path, model={"name": "net[/bold] [v2]\x1b[2J"})
    assert "net[/bold] [v2]\\x1b[2J" in " ".join(invoke(*base(named)).split())


def test_a_limit_of_a_kind_whose_memory_nobody_measured_is_refused(profile_path: Path) -> None:
    devices = json.loads(profile_path.read_text())["devices"]
    for point in devices["p100"]["points"]:
        point["peak_bytes"] = None
    with pytest.raises(
        UsageError, match="--memory limits p100, and its profile has no peak memory for passes of 8, 16"
    ):
        invoke(*base(change(profile_path, devices=devices)), "--memory", "p100=1GiB")


def test_a_profile_that_is_nested_without_end_or_given_twice_is_a_sentence(profile_path: Path) -> None:
    deep = profile_path.with_name("deep.json")
    deep.write_text("[" * 200_000)
    with pytest.raises(UsageError, match=r"deep\.json is not JSON"):
        invoke(*base(deep))
    with pytest.raises(UsageError, match="p100, v100 are in more than one of the profiles"):
        invoke(*base(profile_path), "--profile", str(profile_path))


def test_cuda_is_the_profiles_only_kind_of_gpu(profile_path: Path) -> None:
    devices = json.loads(profile_path.read_text())["devices"]
    devices["v100"]["type"] = "cuda"
    words = ["--global-batch-size", "256", "--json", "--devices"]
    one = change(profile_path, devices=devices)
    found = json.loads(invoke("--profile", str(one), *words, "p100:2,cuda:3", "--memory", "cuda=8GiB"))
    assert [device["kind"] for device in found["devices"]] == ["p100"] * 2 + ["v100"] * 3
    with pytest.raises(UsageError, match="names cuda and v100, and in this profile they are the same"):
        invoke("--profile", str(one), *words, "v100:2,cuda:3")
    devices["p100"]["type"] = "cuda"
    with pytest.raises(
        UsageError, match="names cuda, and the profile has 2 kinds of CUDA devices: v100, p100"
    ):
        invoke("--profile", str(change(profile_path, devices=devices)), *words, "cuda:3")


def test_standbys_and_idle_devices_are_told_apart_on_the_screen(profile_path: Path) -> None:
    screen = " ".join(invoke(*base(profile_path), "--virtual-nodes", "16", "--memory", "v100=2GiB").split())
    assert "v100:0-3 none - - standby" in screen
