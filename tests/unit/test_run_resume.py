"""A run that is cut anywhere and resumed on any number of workers has the bits of one that was not."""

import threading
from pathlib import Path
from typing import Any

import pytest

import resumable
from holdtrue.errors import CheckpointError, WorkerLostError
from holdtrue.record import RunRecord, read_run
from holdtrue.run._core import Core
from holdtrue.testing import run_in_process

CUTS = {
    "everything": [
        *(("pass", s) for s in (1, 4, 5, 10)),
        *(("passes done", s) for s in (4, 11)),
        *(("updated", s) for s in (3, 4, 7, 11)),
        *(("between", e) for e in (0, 1, 2)),
    ],
    "streaming": [
        *(("pass", s) for s in range(1, 15, 2)),
        *(("updated", s) for s in range(2, 15)),
        ("between", 0),
        ("between", 1),
    ],
    "breaking": [
        *(("pass", s) for s in (2, 4, 6, 9, 13)),
        *(("updated", s) for s in range(14)),
        *((name, call) for name in ("between", "evaluated") for call in range(5)),
    ],
}


class Killed(BaseException):
    """Stands for SIGKILL."""


def run_script(
    name: str, folder: Path, mapping: str, cut: tuple[str, int] | None = None
) -> list[dict[str, Any]]:
    """The script on the workers of `mapping`, cut at a moment on all of them."""
    cores: dict[int, Core] = {}
    fired = []

    def join(core: Core) -> None:
        cores[threading.get_ident()] = core
        own_join(core)

    def on_moment(*at: object) -> None:
        if at == cut:
            fired.append(at)
            cores[
                threading.get_ident()
            ].has_failed = True  # a killed process closes no loop and writes nothing
            raise Killed

    def main() -> dict[str, Any]:
        try:
            return resumable.SCRIPTS[name](str(folder))
        except (Killed, WorkerLostError):
            if not fired:
                raise
            return {}

    own_join = Core.join
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Core, "join", join)
        patch.setattr(resumable, "on_moment", on_moment)
        results = run_in_process(main, mapping=mapping, timeout_s=20)
    assert bool(fired) == (cut is not None)
    for core in cores.values():
        core.close()
    return results


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[RunRecord, dict[str, Any]]]:
    """Record and result of each script, undisturbed on one worker."""
    found = {}
    for name, nodes in (("everything", "0-4"), ("streaming", "0-2"), ("breaking", "0-3")):
        folder = tmp_path_factory.mktemp("whole") / name
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOLDTRUE_DIGEST_EVERY", "1")
            patch.setenv("HOLDTRUE_CHECKPOINT_EVERY", "0")
            (result,) = run_script(name, folder, nodes)
        found[name] = read_run(folder), result
    return found


def check_same(folder: Path, whole: tuple[RunRecord, dict[str, Any]], results: list[dict[str, Any]]) -> None:
    """Every step is there once, with the loss and the digest of each entry of the undisturbed run."""
    record, expected = whole
    found = read_run(folder)
    assert found.conflicts == ()
    assert list(found.steps) == list(record.steps)
    assert [s.loss for s in found.steps.values()] == [s.loss for s in record.steps.values()]
    assert [s.epoch for s in found.steps.values()] == [s.epoch for s in record.steps.values()]
    for step, digests in record.digests.items():
        assert found.digests[step].entries == digests.entries, f"after step {step}"
        assert found.digests[step].digest == digests.digest
    for result in results:
        assert {k: v for k, v in result.items() if k != "run"} == {
            k: v for k, v in expected.items() if k != "run"
        }


MAPPINGS = {
    "everything": ("0-4", "0-1/2-4", "4,0/1,3/2"),
    "streaming": ("0-2", "0/1-2", "2/0/1"),
    "breaking": ("0-3", "0-1/2-3", "3,0/2/1"),
}


@pytest.mark.parametrize("name", list(CUTS))
def test_mappings_agree_undisturbed(name: str, whole, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOLDTRUE_DIGEST_EVERY", "1")
    for i, mapping in enumerate(MAPPINGS[name][1:]):
        results = run_script(name, tmp_path / str(i), mapping)
        check_same(tmp_path / str(i), whole[name], results)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOLDTRUE_CHECKPOINT_EVERY", "3")
    run_script("breaking", tmp_path / "r", "0-1/2-3", ("updated", 7))
    damaged = sorted((tmp_path / "r" / "checkpoints").iterdir())
    assert len(damaged) >= 2
    for checkpoint in damaged:
        (checkpoint / "model.safetensors").unlink()
    monkeypatch.setenv("HOLDTRUE_RESUME", "1")
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* can be used") as caught:
        run_script("breaking", tmp_path / "r", "0-1/2-3")
    assert all(f"checkpoint {c.name} is damaged: model.safetensors" in str(caught.value) for c in damaged)


def _cases() -> list[object]:
    """Each cut with one interval between checkpoints, the others in the slow tier."""
    cuts = [(name, cut) for name, cuts in CUTS.items() for cut in cuts]
    return [
        pytest.param(
            name,
            cut,
            every,
            marks=() if i % 3 == every - 1 else pytest.mark.slow,
            id=f"{name}-{cut[0]}-{cut[1]}-every-{every}",
        )
        for i, (name, cut) in enumerate(cuts)
        for every in (1, 2, 3)
    ]


@pytest.mark.parametrize(("name", "cut", "every"), _cases())
def test_a_cut_run_goes_on_with_the_bits_of_an_undisturbed_one(
    name, cut, every, whole, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("HOLDTRUE_DIGEST_EVERY", "1")
    monkeypatch.setenv("HOLDTRUE_CHECKPOINT_EVERY", str(every))
    before, after = MAPPINGS[name][every % 3], MAPPINGS[name][(every + cut[1]) % 3]
    run_script(name, tmp_path / "run", before, cut)
    monkeypatch.setenv("HOLDTRUE_RESUME", "1")
    check_same(tmp_path / "run", whole[name], run_script(name, tmp_path / "run", after))


@pytest.mark.parametrize("name", list(CUTS))
def test_a_run_that_came_to_its_end_does_nothing_more_when_it_is_resumed(
    name, whole, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("HOLDTRUE_DIGEST_EVERY", "1")
    monkeypatch.setenv("HOLDTRUE_CHECKPOINT_EVERY", "0")
    run_script(name, tmp_path / "run", MAPPINGS[name][1])
    lines = (tmp_path / "run" / "steps.jsonl").read_text()
    monkeypatch.setenv("HOLDTRUE_RESUME", "1")
    check_same(tmp_path / "run", whole[name], run_script(name, tmp_path / "run", MAPPINGS[name][2]))
    assert (tmp_path / "run" / "steps.jsonl").read_text() == lines


def test_a_run_can_be_cut_again_and_again(whole, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOLDTRUE_DIGEST_EVERY", "1")
    monkeypatch.setenv("HOLDTRUE_CHECKPOINT_EVERY", "2")
    monkeypatch.setenv("HOLDTRUE_RESUME", "1")
    for step in (1, 4, 7, 9):
        run_script("everything", tmp_path / "run", MAPPINGS["everything"][step % 3], ("updated", step))
    check_same(tmp_path / "run", whole["everything"], run_script("everything", tmp_path / "run", "0-4"))
