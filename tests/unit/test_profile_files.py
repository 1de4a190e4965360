"""Profile files: read back equal, refused with a sentence, never optimistic between points."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.errors import UsageError
from holdtrue.profile import (
    DeviceProfile,
    PassPoint,
    Profile,
    check_profile,
    format_profile,
    merge_profiles,
    parse_profile,
    read_profile,
    write_profile,
)

POINTS = (
    PassPoint(batch_size=8, seconds=0.1, peak_bytes=800),
    PassPoint(batch_size=16, seconds=0.15, peak_bytes=1500),
)


def make_device(kind: str = "cpu", torch_version: str = "2.13.0") -> DeviceProfile:
    return DeviceProfile(
        kind=kind,
        name="One core",
        torch_version=torch_version,
        date="2026-11-23",
        points=POINTS,
        fixed_s=0.01,
        memory_bytes=4096,
        exchange_bytes_per_s=1e9,
        exchange_latency_s=0.001,
    )


def make_profile(*devices: DeviceProfile, model_name: str = "net") -> Profile:
    return Profile(
        model_name=model_name, model_hash="ab12", gradient_bytes=400, devices=devices or (make_device(),)
    )


def edited(**changes: Any) -> str:  # Any: JSON values
    return json.dumps(json.loads(format_profile(make_profile())) | changes)


def test_a_profile_is_read_back_equal(tmp_path: Path) -> None:
    profile = make_profile(make_device("cpu"), make_device("a100-40"))
    write_profile(profile, tmp_path / "p.json")
    assert read_profile(tmp_path / "p.json") == profile
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


@settings(derandomize=True, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 10**6), st.floats(1e-9, 1e9), st.none() | st.integers(0, 2**50)), min_size=1
    ),
    st.floats(0, 1e6),
)
def test_every_profile_survives_its_file_bit_for_bit(
    points: list[tuple[int, float, int | None]], fixed_s: float
) -> None:
    sizes = {size: PassPoint(batch_size=size, seconds=s, peak_bytes=peak) for size, s, peak in points}
    device = DeviceProfile(
        kind="k",
        torch_version="2",
        date="2026-01-31",
        points=tuple(sizes[size] for size in sorted(sizes)),
        fixed_s=fixed_s,
    )
    profile = Profile(model_name="é\n", devices=(device,))
    assert parse_profile(format_profile(profile)) == profile


def test_optional_keys_may_be_left_out() -> None:
    device = {"torch": "2.13.0", "date": "2026-11-23", "points": [{"batch": 8, "seconds": 1}]}
    values = {
        "format": "holdtrue.profile",
        "version": 1,
        "model": {"name": "net"},
        "devices": {"cpu": device},
    }
    profile = parse_profile(json.dumps(values))
    assert profile.device("cpu").pass_s(8) == 1
    assert (profile.gradient_bytes, profile.device("cpu").memory_bytes, profile.torch_version) == (
        0,
        None,
        "2.13.0",
    )


def test_times_between_points_are_on_the_line_and_memory_is_that_of_the_larger_point() -> None:
    device = make_device()
    assert [device.pass_s(size) for size in (8, 10, 16)] == [0.1, pytest.approx(0.1125), 0.15]
    assert [device.pass_bytes(size) for size in (8, 9, 16, 17)] == [800, 1500, 1500, None]
    assert [device.pass_s(size) for size in (5, 4, 17)] == [0.1, None, None]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object"),
        ("{}", "has format None"),
        (edited(format="other"), "has format 'other'"),
        (edited(version=2), "version 2; this holdtrue reads version 1"),
        (edited(colour=1), "unknown keys .'colour'."),
        (edited(devices={}), "at least one kind"),
        (edited(devices=[]), "devices is .*; it must be dict"),
        (edited(devices={"cpu": 3}), "device cpu is 3"),
        (edited(devices={"cpu": {"torch": "2"}}), "lacks .'date', 'points'."),
        (
            edited(
                devices={"c:u": {"torch": "2", "date": "2026-01-01", "points": [{"batch": 1, "seconds": 1}]}}
            ),
            "kind 'c:u'",
        ),
        (
            edited(devices={"cpu": {"torch": "2", "date": "today", "points": [{"batch": 1, "seconds": 1}]}}),
            "YYYY-MM-DD",
        ),
        (edited(devices={"cpu": {"torch": "2", "date": "2026-01-01", "points": []}}), "at least one point"),
        (edited(devices={"cpu": {"torch": "2", "date": "2026-01-01", "points": [3]}}), "point 0 is 3"),
        (
            edited(
                devices={"cpu": {"torch": "2", "date": "2026-01-01", "points": [{"batch": 1, "seconds": 0}]}}
            ),
            "positive",
        ),
        (
            edited(
                devices={"cpu": {"torch": "2", "date": "2026-01-01", "points": [{"batch": 0, "seconds": 1}]}}
            ),
            "at least 1",
        ),
        (
            edited(
                devices={
                    "cpu": {"torch": "2", "date": "2026-01-01", "points": [{"batch": True, "seconds": 1}]}
                }
            ),
            "batch is",
        ),
        (edited(gradient_bytes=-1), "0 or more"),
        (edited(numerics="exactly"), "numerics 'exactly'; the levels are exact, portable, fast"),
        (edited(model={"name": 3}), "name is 3; it must be str"),
    ],
)
def test_a_file_that_is_no_profile_is_refused_with_the_place_named(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_profile(text, origin="p.json")


def test_points_out_of_order_or_twice_are_refused() -> None:
    for points in (POINTS[::-1], POINTS + POINTS[1:]):
        with pytest.raises(UsageError, match="ascending order, each size once"):
            DeviceProfile(kind="cpu", torch_version="2", date="2026-01-01", points=points)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.json cannot be read \(No such file"):
        read_profile(tmp_path / "missing.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"cannot be read \(not text\)"):
        read_profile(tmp_path / "binary")


def test_a_profile_of_another_model_torch_or_device_is_refused() -> None:
    profile = make_profile()
    check_profile(profile, kinds=["cpu"], model="net", torch_version="2.13.0")
    check_profile(profile, model="ab12")
    with pytest.raises(UsageError, match=r"is of model net \(hash ab12\), and the job's is other"):
        check_profile(profile, model="other")
    with pytest.raises(UsageError, match=r"measured with torch 2\.13\.0, and the job runs 2\.14\.0"):
        check_profile(profile, torch_version="2.14.0")
    with pytest.raises(UsageError, match="no profile for a100, t4; this one has cpu"):
        check_profile(profile, kinds=["t4", "cpu", "a100"])
    with pytest.raises(UsageError, match="no profile for a100"):
        profile.device("a100")


def test_profiles_of_one_model_merge_and_others_do_not() -> None:
    merged = merge_profiles([make_profile(make_device("cpu")), make_profile(make_device("a100"))])
    assert [device.kind for device in merged.devices] == ["cpu", "a100"]
    with pytest.raises(UsageError, match="model_name 'net' and 'other'"):
        merge_profiles([make_profile(), make_profile(make_device("a100"), model_name="other")])
    with pytest.raises(UsageError, match="cpu is in more than one of the profiles"):
        merge_profiles([make_profile(), make_profile()])
    with pytest.raises(UsageError, match=r"mixes torch versions 2\.13\.0, 2\.14\.0"):
        merge_profiles([make_profile(), make_profile(make_device("a100", "2.14.0"))])
