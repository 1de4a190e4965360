"""The cluster's commands where there is nothing to ask, and what they show."""

import json
from pathlib import Path

import pytest

from holdtrue.cli import main
from holdtrue.cli._queue import describe_queue
from holdtrue.cluster import (
    Cluster,
    Job,
    Opened,
    Rates,
    Schedule,
    Submitted,
    decide_record,
    record_to_values,
)


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit status and everything said."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out + err


@pytest.mark.parametrize("words", [(), ("--foreground",)])
@pytest.mark.parametrize(("name", "reason"), [("afile", "it is a file"), ("afile/in", "Not a directory")])
def test_a_cluster_in_a_file_is_refused_by_the_command_and_by_the_scheduler(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], name: str, reason: str
) -> None:
    (tmp_path / "afile").write_text("mine")
    status, said = call(
        capsys, "cluster", "start", "--devices", "cpu:1", "--dir", str(tmp_path / name), *words
    )
    assert status == 2
    assert f"the cluster's folder {tmp_path / name} cannot be used ({reason}); the scheduler" in said
    assert "Name another --dir." in said
    assert (tmp_path / "afile").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("queue",), "no cluster is running in"),
        (("cancel", "a"), "no cluster is running in"),
        (("cluster", "policy", "wfs"), "no cluster is running in"),
        (("cluster", "stop"), "no cluster is running in"),
        (
            ("cluster", "log", "--out", "log.jsonl"),
            "its scheduler takes jobs, and tells of them, while it runs",
        ),
        (("cluster", "log", "--replay", "a", "--out", "b"), "--replay and --out were both given"),
        (("submit", "none.toml"), "none.toml cannot be read"),
        (("cluster", "start", "--devices", "tpu:2"), "runs jobs on CPU slots of this machine"),
        (("cluster", "start", "--devices", "cuda:99"), "--devices is cuda:99, and this machine shows"),
        (("cluster", "start", "--devices", "cpu:1,cuda:1"), "a cluster has devices of one kind"),
        (("cluster", "start", "--devices", "cpu:1", "--memory", "much"), "the size 'much' cannot be read"),
        (("cluster", "start", "--devices", "cpu:1", "--memory", "0"), "a device has 1 byte or more"),
        (("cluster", "start", "--devices", "cpu"), "has the part 'cpu'"),
        (("cluster", "start", "--queue", "a=1"), "--queue is given and --devices is not"),
        (("cluster", "start", "--devices", "cpu:1", "--queue", "a=2"), "are guaranteed 2 devices of 1"),
        (("cluster", "start", "--devices", "cpu:1", "--policy", "makespan"), "makespan shares time"),
        (("cluster", "log", "--replay", "none.jsonl"), "none.jsonl cannot be read"),
    ],
)
def test_wrong_use_ends_in_a_sentence_and_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.setenv("HOLDTRUE_CLUSTER", str(tmp_path / "cluster"))
    monkeypatch.chdir(tmp_path)
    status, said = call(capsys, *words)
    assert (status, sentence in said) == (2, True), said
    assert not (tmp_path / "cluster").exists(), "nothing is left behind"


def test_a_written_log_is_decided_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster(devices=(("cpu", 2),))
    job = Job(id="1", arrival_s=0, work=1, rates=Rates(by_type=(("*", ((2, 1.0),)),)), max_devices=2)
    schedule, lines = Schedule(cluster=cluster, policy="wfs"), []
    for number, event in enumerate((Opened(cluster=cluster, policy="wfs"), Submitted(job=job)), 1):
        schedule, record = decide_record(schedule, event, number=number, now_s=0.0)
        assert record.grants is not None
        lines.append(json.dumps(record_to_values(record)))
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(lines))
    assert call(capsys, "cluster", "log", "--replay", str(path)) == (0, "2 decisions, 0 of them differ\n")
    path.write_text("\n".join(lines).replace('["cpu", 2]]}', '["cpu", 1]]}'))
    status, said = call(capsys, "cluster", "log", "--replay", str(path))
    assert (status, "event 2: decided 1:1, and now 1:2" in said) == (1, True)


def test_the_queue_shows_who_runs_on_what() -> None:
    job = {
        "name": "a", "state": "running", "devices": 1, "workers": 2, "min_devices": 1, "max_devices": 4, "percent": 100,
        "weight": 5.0, "step": 3, "total": 10, "submitted_s": 100.0, "ended_s": None, "purpose": "", "ending": "",
    }  # fmt: skip
    counts = {"running": 1, "finished": 0}
    facts = {"devices": {"cpu": 4}, "policy": "wfs", "reason": "as it is", "jobs": [job], "counts": counts}
    head, columns, row = describe_queue(facts, now_s=107.0, shows_all=False)
    assert head == "cluster of cpu:4 · policy wfs · as it is"
    assert columns.split() == ["JOB", "STATE", "DEVICES", "WEIGHT", "STEP", "AGE"]
    assert row.split() == ["a", "running", "1", "of", "1-4", "(now", "2)", "5", "3/10", "7", "s"]
    facts["counts"] = {"running": 1, "finished": 12_000, "failed": 7}
    last = describe_queue(facts, now_s=107.0, shows_all=False)[-1]
    assert last == "12007 over; `holdtrue queue --all` shows them too"
    facts["jobs"], facts["counts"] = [], {"finished": 12_000, "failed": 7}
    assert describe_queue(facts, now_s=107.0, shows_all=False) == [
        "cluster of cpu:4 · policy wfs · no jobs wait or run",
        "12007 over; `holdtrue queue --all` shows them too",
    ]
    facts["jobs"] = [job | {"state": "finished", "ended_s": 104.0, "ending": "It finished.", "percent": 50}]
    head, _, row = describe_queue(facts, now_s=107.0, shows_all=True)
    assert "no jobs wait or run" in head, "there are jobs; those that are shown are over"
    assert row.endswith("4 s  It finished.")
    assert "50% of one" in row
