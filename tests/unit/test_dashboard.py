"""What the dashboard reads and serves, without a browser."""

import asyncio
import contextlib
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from holdtrue.dashboard import StepLog, _facts, downsample
from holdtrue.dashboard._app import POLICY, build_app
from holdtrue.dashboard._cluster import ClusterSight
from holdtrue.dashboard._facts import Observatory
from holdtrue.launch import JobEntry
from holdtrue.plan import Plan
from holdtrue.record import RunDirectory, read_run


def write(folder: Path, name: str, steps: int = 6) -> Path:
    path = folder / name
    plan = Plan(virtual_nodes=3, global_batch_size=12, seed=1)
    with RunDirectory.create(path, plan=plan, environment={}, generation=1, resume=False) as run:
        for step in range(steps):
            run.append_step(
                step=step, epoch=0, loss=1.0 / (step + 1), seconds=0.5, digest="ab" * 32 if step % 2 else None
            )
        details = {"workers": [0, 4], "devices": ["cpu", "cuda:0"], "mapping": "0/1-2"}
        run.append_event("resize", step=3, reason="worker 4 joined", details=details)
    return path


def test_columns_read_bit_by_bit_are_those_of_the_record(tmp_path: Path) -> None:
    dice = random.Random(0)
    path = write(tmp_path, "run", 0)
    plan = Plan(virtual_nodes=3, global_batch_size=12, seed=1)
    with RunDirectory.create(path, plan=plan, environment={}, generation=2, resume=True) as run:
        for step in [*range(40), *range(31, 60)]:  # a resume does some again
            loss = dice.choice([None, math.nan, math.inf, 0.5, dice.random()])
            digest = f"{step:064x}" if step % 7 == 0 else None
            run.append_step(step=step, epoch=0, loss=loss, seconds=dice.random(), digest=digest)
    data = (path / "steps.jsonl").read_bytes()
    part = tmp_path / "steps.jsonl"
    log = StepLog(part)
    assert log.refresh() is False
    at = 0
    with part.open("ab", buffering=0) as growing:
        while at < len(data):
            piece = data[at : at + dice.randint(1, 200)]
            at += growing.write(piece)
            log.refresh()
    steps = read_run(path).steps
    assert list(log.steps) == list(steps)
    for i, step in enumerate(steps.values()):
        expected = math.nan if step.loss is None else step.loss
        assert log.losses[i] == expected or math.isnan(log.losses[i]) == math.isnan(expected) is True
        assert (log.seconds[i], log.generations[i]) == (step.seconds, step.generation)
    assert log.digests == {s.step: s.digest for s in steps.values() if s.digest is not None}


def test_a_damaged_line_is_left_out_and_a_file_that_shrank_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    good = '{"step":%d,"epoch":0,"loss":1.0,"seconds":1.0,"generation":1}\n'
    path.write_text(good % 0 + "{oops}\n" + '{"step":"x"}\n' + good % 1)
    log = StepLog(path)
    log.refresh()
    assert list(log.steps) == [0, 1]
    path.write_text(good % 5)
    log.refresh()
    assert list(log.steps) == [5]
    path.write_text("")
    assert log.refresh() is True
    assert list(log.steps) == []
    assert log.refresh() is False


def test_a_spike_of_one_step_among_100_000_is_seen(tmp_path: Path) -> None:
    losses = [1.0] * 100_000
    losses[54_321], losses[7] = 900.0, math.nan
    curve = downsample(range(100_000), losses, [0.1] * 100_000, batch=10)
    assert len(curve.steps) == 500
    assert max(x for x in curve.highest if x is not None) == 900.0
    assert curve.steps[-1] == 99_999
    assert set(curve.examples_per_s) == {100.0}


def test_a_run_is_computed_anew_only_when_it_has_something_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "runs", "a")
    seen, counts = Observatory(jobs=tmp_path / "jobs", runs=tmp_path / "runs"), []

    def count(steps: Any, *rest: Any, **options: Any) -> Any:
        counts.append(len(steps))
        return downsample(steps, *rest, **options)

    monkeypatch.setattr(_facts, "downsample", count)
    first = seen.view("run/a")
    assert seen.view("run/a") == first
    with (path / "steps.jsonl").open("a") as file:
        file.write('{"step":6,"epoch":0,"loss":9.0,"seconds":1.0,"generation":2}\n')
    then = seen.view("run/a")
    assert (then["steps"], then["last"]["loss"], then["changes"]) == (7, 9.0, [[6, 2]])
    assert seen.view("run/a") == then
    assert [n for n in counts if n] == [6, 7]


def test_a_run_whose_folder_is_gone_is_forgotten(tmp_path: Path) -> None:
    seen = Observatory(jobs=tmp_path / "jobs", runs=tmp_path / "runs")
    gone, stays = write(tmp_path / "runs", "gone"), write(tmp_path / "runs", "stays")
    for name in ("gone", "stays"):
        seen.view(f"run/{name}")
    assert set(seen._runs_read) == {gone, stays}
    shutil.rmtree(gone)
    seen.view("run/stays")
    assert set(seen._runs_read) == {stays}


def test_a_job_that_goes_while_it_is_looked_at_is_shown_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "runs", "a")
    entry = JobEntry(
        name="digits", url="http://127.0.0.1:1", pid=1, run_dir=str(path), token_file="", join_file="",
        script="train.py", started_s=0.0, exit_code=0, ending="It finished.",
    )  # fmt: skip
    answers = iter([[(entry, "ended")]])
    monkeypatch.setattr(_facts, "list_jobs", lambda folder: next(answers, []))
    view = Observatory(jobs=tmp_path / "jobs", runs=tmp_path / "runs").view("job/digits")
    assert (view["name"], view["state"], view["how"]) == ("digits", "ended", "It finished.")


async def ask(
    app: Any, method: str, path: str, headers: dict[str, str], body: bytes | None = b""
) -> tuple[int, dict[str, str], bytes]:
    sent: list[Any] = []
    name, _, query = path.partition("?")

    async def receive() -> Any:
        assert body is not None, "nobody waits for this body"
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": name, "raw_path": name.encode(), "query_string": query.encode(),
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()], "http_version": "1.1",
        "scheme": "http", "server": ("127.0.0.1", 1), "client": ("127.0.0.1", 2), "root_path": "",
    }  # fmt: skip
    await app(scope, receive, send)
    found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:])


@pytest.fixture
def app(tmp_path: Path) -> Any:
    write(tmp_path / "runs", "a")
    (tmp_path / "jobs").mkdir()
    seen = Observatory(jobs=tmp_path / "jobs", runs=tmp_path / "runs")
    cluster = ClusterSight(tmp_path / "cluster")
    return build_app(seen, cluster, hosts=frozenset({"127.0.0.1:1"}), token="t" * 24)


HOST = {"Host": "127.0.0.1:1"}
JSON = HOST | {"Content-Type": "application/json", "Content-Length": "30"}
ACT = JSON | {"Authorization": "Bearer " + "t" * 24, "X-Holdtrue": "1"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", "/", HOST, b"", 200),
        ("GET", "/app.js", HOST, b"", 200),
        ("GET", "/cluster.js", HOST, b"", 200),
        ("GET", "/api/jobs", HOST, b"", 200),
        ("GET", "/api/cluster", HOST, b"", 200),
        ("GET", "/api/cluster?until=5.5", HOST, b"", 200),
        ("GET", "/api/cluster?until=inf", HOST, b"", 422),
        ("GET", "/api/cluster?until=-1", HOST, b"", 422),
        ("GET", "/api/view?id=run/a", HOST, b"", 200),
        ("GET", "/api/jobs", {"Host": "evil.example"}, b"", 421),
        ("GET", "/api/jobs", HOST | {"Origin": "http://evil.example"}, b"", 403),
        ("GET", "/api/view?id=run/../../etc", HOST, b"", 404),
        ("GET", "/api/view?id=run/gone", HOST, b"", 404),
        ("GET", "/../_app.py", HOST, b"", 404),
        ("GET", "/api/act", HOST, b"", 405),
        ("POST", "/api/act", JSON, b'{"id": "job/x", "what": "stop"}', 401),
        ("POST", "/api/act", ACT | {"X-Holdtrue": "0"}, b'{"id": "job/x", "what": "stop"}', 403),
        ("POST", "/api/act", ACT | {"Content-Length": "4097"}, b"{", 413),
        ("POST", "/api/act", ACT | {"Content-Length": "1", "Transfer-Encoding": "chunked"}, b"{", 411),
        ("POST", "/", JSON, b"{", 401),
        ("POST", "/api/act", JSON | {"Authorization": "Bearer wrong"}, b'{"id": "job/x", "what": "stop"}', 401),
        ("POST", "/api/act", ACT, b'{"id": "job/x", "what": "stop"}', 409),
        ("POST", "/api/act", ACT, b'{"id": "job/x", "what": "format"}', 422),
        ("POST", "/api/act", ACT, b"{", 422),
    ],
)  # fmt: skip
def test_who_may_ask_what(
    app: Any, method: str, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    found, answered, text = asyncio.run(ask(app, method, path, headers, body))
    assert found == status, text
    assert answered["content-security-policy"] == POLICY
    assert answered["x-content-type-options"] == "nosniff"
    if status >= 400:
        assert json.loads(text)["error"].endswith(".")


@pytest.mark.parametrize(
    ("without", "status"), [("Authorization", 401), ("X-Holdtrue", 403), ("Content-Length", 411)]
)
def test_a_refused_body_is_not_read(app: Any, without: str, status: int) -> None:
    asked = {name: value for name, value in ACT.items() if name != without}
    found, answered, _ = asyncio.run(ask(app, "POST", "/api/act", asked, body=None))
    assert (found, answered["connection"]) == (status, "close")


def test_a_view_has_mapping_events_and_digests_of_the_record(app: Any) -> None:
    _, _, text = asyncio.run(ask(app, "GET", "/api/view?id=run/a", HOST))
    view = json.loads(text)
    assert [(w["worker"], w["device"], w["virtual_nodes"]) for w in view["mapping"]] == [
        (0, "cpu", [0]),
        (4, "cuda:0", [1, 2]),
    ]
    assert view["mapping"][0]["pass_s"] == 0.25
    assert [e["kind"] for e in view["events"]] == ["started", "resize"]
    assert [step for step, _ in view["digests"]] == [1, 3, 5]
    assert view["curve"]["losses"] == [1.0 / (s + 1) for s in range(6)]


@pytest.mark.parametrize(
    ("measured", "seconds", "is_measured"),
    [
        ([0.5, None], [0.5, 0.25], [True, False]),
        ([0.5, 0.125], [0.5, 0.125], [True, True]),
        ([0.5], [0.25, 0.25], [False, False]),
        (["<b>", 1], [0.25, 0.25], [False, False]),
        ([float("nan"), 1], [0.25, 0.25], [False, False]),
        (None, [0.25, 0.25], [False, False]),
    ],
)
def test_seconds_of_a_pass_are_those_that_were_measured_or_else_a_bound(
    tmp_path: Path, measured: Any, seconds: list[float], is_measured: list[bool]
) -> None:
    path = write(tmp_path / "runs", "a")
    plan = Plan(virtual_nodes=3, global_batch_size=12, seed=1)
    details = {"workers": [0, 4], "devices": ["cpu", "cpu"], "mapping": "0/1-2", "pass_s": measured}
    with RunDirectory.create(path, plan=plan, environment={}, generation=2, resume=True) as run:
        run.append_event("remap", step=4, reason="worker 4 slowed down", details=details)
    rows = Observatory(jobs=tmp_path / "jobs", runs=tmp_path / "runs").view("run/a")["mapping"]
    assert [row["pass_s"] for row in rows] == seconds
    assert [row["is_measured"] for row in rows] == is_measured


def test_seconds_of_a_pass_are_those_of_each_worker_while_the_job_runs() -> None:
    job = {
        "workers": [{"worker": w, "rank": r, "device": "cpu"} for w, r in ((7, 1), (2, 0), (9, 2))],
        "progress": {"mapping": "0-1/2/none", "pass_s": "0.5 0.125 -", "slowest_pass_s": 0.5},
    }
    now = _facts._mapping_now(job, [])
    rows = _facts._draw_mapping(now, 3, {"seconds": 3.0})
    assert [(r["worker"], r["pass_s"], r["is_measured"]) for r in rows] == [
        (2, 0.5, True), (7, 0.125, True), (9, None, False),
    ]  # fmt: skip


def test_the_page_has_no_inline_script_or_style_and_names_no_other_host() -> None:
    page = Path(build_app.__code__.co_filename).with_name("page")
    html = (page / "index.html").read_text()
    assert html.count("<script") == html.count("<script src=") == 2
    assert "style=" not in html
    assert "<style" not in html
    for file in page.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text
        assert "https:" not in text
    code = "".join(path.read_text() for path in page.glob("*.js"))
    assert not [
        word
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(")
        if word in code
    ]


def test_the_workers_of_a_run_are_shown_from_its_beginning(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    plan = Plan(virtual_nodes=2, global_batch_size=8)
    with contextlib.closing(
        RunDirectory.create(runs / "a", plan=plan, environment={}, generation=1, resume=False, workers=[0])
    ) as run:
        run.append_step(step=0, epoch=0, loss=1.0, seconds=1.0)
        run.append_event("resize", step=3, reason="worker 1 joins", details={"workers": [0, 1]})
    view = Observatory(jobs=tmp_path / "jobs", runs=runs).view("run/a")
    assert view["workers"] == ((0, 1), (3, 2))
