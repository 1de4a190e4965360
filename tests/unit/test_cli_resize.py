"""What `holdtrue resize` says where a job cannot have the workers that it is to have."""

from typing import Any

from holdtrue.cli._jobs import describe_no_room, has_all_it_can


def facts(target: int, phases: list[str], unplaced: int) -> dict[str, Any]:  # Any: JSON values
    workers = [
        {"worker": n, "rank": n if phase == "member" else None, "generation": 3 if phase == "member" else 0}
        for n, phase in enumerate(phases)
    ]
    return {"target": target, "generation": 3, "unplaced": unplaced, "workers": workers}


def test_a_resize_is_over_once_all_that_find_room_are_members() -> None:
    assert has_all_it_can(facts(9, ["member"] * 8, 1))
    assert not has_all_it_can(facts(9, ["member"] * 7 + ["starting"], 1))
    assert not has_all_it_can(facts(9, ["member"] * 8 + ["dismissed"], 1)), "whose room is about to be free"
    assert not has_all_it_can(facts(8, ["member"] * 8, 0))


def test_workers_without_room_are_said_with_the_way_out() -> None:
    assert describe_no_room(facts(8, ["member"] * 8, 0), "http://h:1") == ""
    assert describe_no_room(facts(9, ["member"] * 8, 1), "http://h:1") == (
        "1 of 9 workers find no room now: add a device with `holdtrue worker --join http://h:1`, or ask for fewer."
    )
