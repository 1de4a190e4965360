"""`holdtrue serve` in processes: bits under load, deaths, resizes, back-pressure, wrong input."""

import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from commands import LIMIT_S, holdtrue
from servers import SLOW_MODEL, Served, make_folder, serving

pytestmark = pytest.mark.process

PADDING_BYTES = 100_000
"""What makes a body so long that bodies which are kept are seen."""
MOST_GROWN_BYTES = 20 * 2**20
WORDS = ("--example", "x.npy", "--workers", "2", "--audit-every", "3", "--pass-timeout", "5")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(make_folder(tmp_path_factory.mktemp("serve")), *WORDS) as server:
        server.until_members(2)
        yield server


@pytest.fixture(scope="module")
def examples() -> Any:
    return np.random.default_rng(7).normal(size=(40, 50)).astype(np.float32)


@pytest.fixture(scope="module")
def alone(served: Served, examples: Any) -> list[Any]:
    """The answer to each example, asked when nothing else was."""
    return [served.predict(x).values["predictions"][0] for x in examples]


def load(server: Served, examples: Any, alone: list[Any], *, until: threading.Event, seed: int) -> int:
    """Ask at random until told, and compare every answer's bits; how many were asked."""
    dice, asked = random.Random(seed), 0
    while not until.is_set():
        group = dice.sample(range(len(examples)), dice.randint(1, 5))
        reply = server.predict(*(examples[i] for i in group))
        assert reply.status == 200, reply.body
        assert reply.values["predictions"] == [alone[i] for i in group]
        asked += len(group)
    return asked


def under_load(server: Served, examples: Any, alone: list[Any], act: Any, *, threads: int = 6) -> int:
    """Do something while threads ask; how many answers were compared."""
    until = threading.Event()
    with ThreadPoolExecutor(threads) as pool:
        tasks = [pool.submit(load, server, examples, alone, until=until, seed=k) for k in range(threads)]
        try:
            act()
        finally:
            until.set()
        return sum(task.result(LIMIT_S) for task in tasks)


@pytest.mark.slow
def test_answers_keep_their_bits_under_random_load_a_resize_and_the_death_of_workers(
    served: Served, examples: Any, alone: list[Any]
) -> None:
    before = served.metric('holdtrue_serve_requests_total{status="200"}')
    assert before > 0

    def act() -> None:
        killed = served.until_members(2)[0]["pid"]
        os.kill(killed, signal.SIGKILL)
        served.until_members(2, without=killed)
        for workers in (1, 2):  # 2 again for the tests that share the server
            done = holdtrue(
                *("resize", "net", str(workers)),
                cwd=served.folder,
                env={"XDG_RUNTIME_DIR": str(served.folder / "xdg")},
            )
            assert done.status == 0, done.text
            served.until_members(workers)

    compared = under_load(served, examples, alone, act)
    assert compared > 50
    assert served.metric("holdtrue_serve_worker_deaths_total") >= 1
    assert served.metric('holdtrue_serve_requests_total{status="200"}') > before
    assert served.metric('holdtrue_serve_audits_total{result="equal"}') > 0
    assert served.metric('holdtrue_serve_audits_total{result="differs"}') == 0


def test_no_request_fails_and_no_bit_changes_when_a_worker_is_killed(
    served: Served, examples: Any, alone: list[Any]
) -> None:
    deaths = served.metric("holdtrue_serve_worker_deaths_total")

    def act() -> None:
        killed = served.until_members(2)[0]["pid"]
        os.kill(killed, signal.SIGKILL)
        served.until_members(2, without=killed)

    assert under_load(served, examples, alone, act, threads=3) > 10
    assert served.metric("holdtrue_serve_worker_deaths_total") == deaths + 1


def test_wrong_input_is_a_sentence_and_its_neighbours_are_answered(
    served: Served, examples: Any, alone: list[Any]
) -> None:
    def act() -> None:
        wrong = examples[0].copy()
        wrong[0] = 77
        reply = served.predict(wrong)
        assert reply.status == 422
        assert "ValueError: no 77 here" in reply.values["error"]
        for body, status in ((b"{", 400), (b'{"instances": [[1, 2]]}', 400), (b"x" * (2**20 + 1), 413)):
            reply = served.ask("POST", "/v1/predict", body)
            assert (reply.status, reply.values["error"][-1]) == (status, "."), reply.body

    assert under_load(served, examples, alone, act, threads=3) > 0


def test_actions_need_the_token_and_pages_of_other_origins_are_refused(served: Served) -> None:
    assert served.ask("POST", "/v1/resize", {"workers": 1}).status == 401
    read = {"Authorization": f"Bearer {served.tokens()['read']}", "X-Holdtrue": "1"}
    assert served.ask("POST", "/v1/resize", {"workers": 1}, read).status == 403
    admin = {"Authorization": f"Bearer {served.tokens()['admin']}"}
    assert served.ask("POST", "/v1/resize", {"workers": 1}, admin).status == 403, "the header is missing"
    assert served.ask("POST", "/v1/resize", {"workers": 0}, admin | {"X-Holdtrue": "1"}).status == 422
    assert served.ask("POST", "/v1/predict", {"instances": [1]}, {"Origin": "http://elsewhere"}).status == 403
    assert served.ask("GET", "/v1/health", headers={"Host": "elsewhere"}).status == 421
    assert served.ask("GET", "/v1/job").status == 401
    listening = {
        c.laddr.ip
        for p in (
            psutil.Process(served.process.pid),
            *psutil.Process(served.process.pid).children(recursive=True),
        )
        for c in p.net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.slow
def test_a_worker_that_stands_still_is_ended_and_its_requests_are_answered_by_another(
    served: Served, examples: Any, alone: list[Any]
) -> None:
    deaths = served.metric("holdtrue_serve_worker_deaths_total")

    def act() -> None:
        os.kill(served.members()[0]["pid"], signal.SIGSTOP)
        until_s = time.monotonic() + LIMIT_S
        while served.metric("holdtrue_serve_worker_deaths_total") == deaths:
            assert time.monotonic() < until_s
            time.sleep(0.1)
        served.until_members(served.job()["target"])

    assert under_load(served, examples, alone, act) > 0


@pytest.mark.slow
def test_a_request_that_kills_its_workers_is_given_up_and_no_other_fails(
    served: Served, examples: Any, alone: list[Any]
) -> None:
    def act() -> None:
        deadly = examples[0].copy()
        deadly[0] = 666
        reply = served.predict(deadly)
        assert reply.status == 503
        assert "3 workers died while they computed this request" in reply.values["error"]

    assert under_load(served, examples, alone, act, threads=2) > 0


@pytest.mark.slow
def test_too_much_is_answered_429_and_memory_does_not_grow(tmp_path: Path, examples: Any) -> None:
    make_folder(tmp_path, SLOW_MODEL)
    with serving(tmp_path, "--example", "x.npy", "--queue", "8", "--pass-size", "2") as server:
        statuses: list[int] = []
        front = psutil.Process(server.process.pid)
        body = json.dumps({"instances": [examples[0].tolist()]}).encode() + b" " * PADDING_BYTES

        def ask(_: int) -> int:
            reply = server.ask("POST", "/v1/predict", body)
            assert reply.status == 200 or reply.headers["retry-after"] == "1"
            return reply.status

        with ThreadPoolExecutor(40) as pool:
            statuses += pool.map(ask, range(80))
            before, refused = front.memory_info().rss, statuses.count(429)
            statuses += pool.map(ask, range(600))
        grown = front.memory_info().rss - before
        assert set(statuses) == {200, 429}
        assert statuses.count(429) > statuses.count(200)
        assert server.metric("holdtrue_serve_inside_requests") == 0
        kept = (statuses.count(429) - refused) * PADDING_BYTES
        assert kept > 2 * MOST_GROWN_BYTES, "too few were turned away to be seen"
        assert grown < MOST_GROWN_BYTES, f"{grown} bytes more; bodies of {kept} bytes were turned away"


@pytest.mark.slow
def test_ordinary_dynamic_batching_has_other_bits_under_load(tmp_path: Path, examples: Any) -> None:
    """The control: the same server with passes of what waits."""
    with serving(make_folder(tmp_path), "--example", "x.npy", "--numerics", "fast") as server:
        alone = [server.predict(x).values["predictions"][0] for x in examples]
        together = server.predict(*examples).values["predictions"]
        assert np.allclose(together, alone, rtol=1e-4, atol=1e-5)
        assert together != alone


@pytest.mark.slow
def test_requests_that_are_inside_are_answered_when_the_server_is_ended(
    tmp_path: Path, examples: Any
) -> None:
    make_folder(tmp_path, SLOW_MODEL)
    with serving(tmp_path, "--example", "x.npy", "--pass-size", "2") as server, ThreadPoolExecutor(6) as pool:
        tasks = [pool.submit(server.predict, x) for x in examples[:6]]
        until_s = time.monotonic() + LIMIT_S
        while server.metric("holdtrue_serve_inside_requests") < 6:
            assert time.monotonic() < until_s
        os.kill(server.process.pid, signal.SIGTERM)
        assert [task.result(LIMIT_S).status for task in tasks] == [200] * 6
        assert server.process.wait(LIMIT_S) == 0
    assert not [line for line in (tmp_path / "said.txt").read_text().splitlines() if "Traceback" in line]


@pytest.mark.slow
def test_three_hundred_half_requests_keep_nobody_from_an_answer(
    served: Served, examples: Any, alone: list[Any]
) -> None:
    lines = [socket.create_connection(("127.0.0.1", served.port), timeout=LIMIT_S) for _ in range(300)]
    for line in lines:
        line.send(b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n")
    assert served.predict(examples[0]).values["predictions"][0] == alone[0]
    for line in lines:
        line.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("gone.py",), "gone.py is no file"),
        (("net.py:Net",), "Give --example DATA"),
        (
            ("net.py:Net", "--example", "five.csv"),
            "it fails on five.csv ((5,) of float32): RuntimeError: mat1",
        ),
        (("net.py:Net", "--example", "x.npy", "--pass-size", "0"), "pass-size is 0"),
        (("net.py:Net", "--example", "x.npy", "--listen", "0.0.0.0:0"), "every address"),
        (
            ("net.py:Net", "--example", "x.npy", "--numerics", "portable"),
            "a server computes at exact or fast",
        ),
    ],
)
def test_what_cannot_be_served_is_a_sentence_and_status_2(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    make_folder(tmp_path)
    (tmp_path / "five.csv").write_text("1,2,3,4,5\n")
    done = holdtrue(
        "serve", *words, "--device", "cpu", cwd=tmp_path, env={"XDG_RUNTIME_DIR": str(tmp_path / "xdg")}
    )
    assert done.status == 2, done.text
    assert said in done.err
    assert "Traceback" not in done.text


@pytest.mark.slow
def test_a_folder_of_transformers_and_an_exported_program_are_served(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "good", "bad"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    env = {"PYTHONWARNINGS": "default"}
    os.environ.update(env)
    with serving(tmp_path, "--tokens", "12", model="bert", name="bert") as server:
        alone = [server.predict(t).values["predictions"][0] for t in ("a good film", "bad", "")]
        together = server.predict("bad", "", "a good film", "bad").values["predictions"]
        assert together == [alone[1], alone[2], alone[0], alone[1]]
    net = torch.nn.Linear(50, 3).eval()
    batch = torch.export.Dim("examples", min=1)
    torch.export.save(
        torch.export.export(net, (torch.ones(4, 50),), dynamic_shapes=({0: batch},)), tmp_path / "net.pt2"
    )
    with serving(tmp_path, model="net.pt2", name="net") as server:
        reply = server.predict([0.5] * 50)
        expected = net(torch.full((8, 50), 0.5))[0]
        assert np.array_equal(np.float32(reply.values["predictions"][0]), expected.detach().numpy())
        assert json.loads(server.ask("GET", "/v1/model").body)["example"]["arrays"]["input"]["shape"] == [50]
