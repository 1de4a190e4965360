"""The controller's process with hundreds of simulated workers that join and leave at random.

The real service runs on one core (`taskset`); the simulated workers speak the real messages over real WebSockets from
another. They enter each view as soon as they hear of it: a run would enter it at its next step boundary. Measured, at the
client, from sending a request to hearing the decision:

    leave    a worker wants to leave          until it hears the view without it
    join     a worker is ready                until it hears the view with it
    resize   a user asks for one more worker  until the host hears the order to start it

One planned view is under way at a time, so a request may wait until all workers have entered the one before: that is
in the figures.

    python benchmarks/control_plane.py --out benchmarks/raw/control_plane.json
"""

import argparse
import asyncio
import json
import os
import random
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from common import describe, spread, write_json
from holdtrue.elastic import ControlClient
from holdtrue.wire import (
    TO_HOST,
    End,
    Entered,
    Hello,
    HostHello,
    Leaving,
    Ready,
    Start,
    decode_control,
    encode_control,
)

GENERATION = re.compile(r'"view": \{"generation": (\d+)')


class Fleet:
    """All simulated workers, their host, and what was measured."""

    def __init__(self, url: str, tokens: dict[str, str], workers: int) -> None:
        self.url = url
        self.headers = {"Authorization": f"Bearer {tokens['join']}"}
        self.client = ControlClient(url=url, token=tokens["admin"], timeout_s=60.0)
        self.workers = workers
        self.sockets: dict[int, ClientConnection] = {}
        self.members: set[int] = set()
        self.leaving: dict[int, float] = {}
        self.ready: dict[int, float] = {}
        self.asked: list[float] = []
        self.seconds: dict[str, list[float]] = {"leave": [], "join": [], "resize": []}
        self.views: dict[int, set[int]] = {}
        self.entered: dict[int, int] = {}
        self.founded = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self.host: ClientConnection | None = None

    def spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._judge)

    def _judge(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            print(f"a simulated worker failed: {task.exception()!r}", file=sys.stderr)
            os._exit(1)

    async def run_host(self) -> None:
        address = self.url.replace("http", "ws") + "/v1/host"
        async with connect(address, additional_headers=self.headers, proxy=None, compression=None) as host:
            self.host = host
            running = tuple(range(self.workers))
            hello = HostHello(
                name="sim", address="127.0.0.1", slots=4 * self.workers, adds=0, running=running
            )
            await host.send(encode_control(hello))
            async for text in host:
                order = decode_control(text, TO_HOST)
                if isinstance(order, Start):
                    if self.asked:
                        self.seconds["resize"].append(time.perf_counter() - self.asked.pop(0))
                    self.spawn(self.run_worker(order.worker))

    async def run_worker(self, number: int) -> None:
        address = self.url.replace("http", "ws") + "/v1/worker"
        async with connect(
            address, additional_headers=self.headers, proxy=None, compression=None, max_size=2**20
        ) as mine:
            self.sockets[number] = mine
            hello = Hello(
                worker=number, host="127.0.0.1", port=10_000 + number % 50_000, device="cpu", pid=number + 1,
                generation=0, step=0, total=None, is_joiner=False, views=(),
            )  # fmt: skip
            await mine.send(encode_control(hello))
            async for text in mine:
                assert isinstance(text, str)
                if '"event": "welcome"' in text[:60] and '"is_joiner": true' in text:
                    self.ready[number] = time.perf_counter()
                    await mine.send(encode_control(Ready(after=0)))
                elif '"event": "over"' in text[:60]:
                    break
                else:
                    found = GENERATION.search(text[:120])
                    if found and not await self.take_view(number, int(found.group(1)), text):
                        break
        del self.sockets[number]
        self.members.discard(number)

    async def take_view(self, number: int, generation: int, text: str) -> bool:
        """Enter a view, or leave; False at the end."""
        now = time.perf_counter()
        if generation not in self.views:
            self.views[generation] = {m["worker"] for m in json.loads(text)["view"]["members"]}
        mine = self.sockets[number]
        if number not in self.views[generation]:
            if number in self.leaving:
                self.seconds["leave"].append(now - self.leaving.pop(number))
            await mine.send(encode_control(End(how="left", sentence="")))
            return False
        if number in self.ready:
            self.seconds["join"].append(now - self.ready.pop(number))
        self.members.add(number)
        await mine.send(encode_control(Entered(generation=generation, step=generation, seconds=0.0)))
        if generation == 1 and len(self.members) == self.workers:
            self.founded.set()
        return True

    async def disturb(self, seconds: float, rate: float, choose: random.Random) -> None:
        """Joins and leaves at random, around the number at the start."""
        loop = asyncio.get_running_loop()
        until = time.perf_counter() + seconds
        target = self.workers
        while time.perf_counter() < until:
            await asyncio.sleep(choose.expovariate(rate))
            stay = sorted(self.members - set(self.leaving))
            if target > self.workers - 16 and (target >= self.workers + 16 or choose.random() < 0.5):
                number = choose.choice(stay)
                self.leaving[number] = time.perf_counter()
                await self.sockets[number].send(encode_control(Leaving(reason="at random")))
                target -= 1
            else:
                target += 1
                self.asked.append(time.perf_counter())
                size = (await loop.run_in_executor(None, self.client.job))["target"] + 1
                self.asked[-1] = time.perf_counter()
                await loop.run_in_executor(None, self.client.resize, size)


async def run_once(
    url: str, tokens: dict[str, str], options: argparse.Namespace, seed: int
) -> dict[str, Any]:
    fleet = Fleet(url, tokens, options.workers)
    fleet.spawn(fleet.run_host())
    while fleet.host is None:
        await asyncio.sleep(0.01)
    for number in range(options.workers):
        fleet.spawn(fleet.run_worker(number))
    await asyncio.wait_for(fleet.founded.wait(), 120)
    await fleet.disturb(options.seconds, options.rate, random.Random(seed))
    await asyncio.sleep(2.0)
    job = fleet.client.job()
    for task in fleet.tasks:
        task.cancel()
    return {
        "seed": seed,
        "generations": job["generation"],
        "members_at_the_end": sum(1 for w in job["workers"] if w["rank"] is not None),
        "unanswered": len(fleet.leaving) + len(fleet.ready),
        "requests": {name: summarise(values) for name, values in fleet.seconds.items()},
        "all": summarise([each for values in fleet.seconds.values() for each in values]),
    }


def summarise(values: list[float]) -> dict[str, Any]:
    """Counts and percentiles in seconds; the values themselves, in milliseconds to three places."""
    ordered = sorted(values)
    at = {
        name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in PERCENTILES.items()
    }
    return {"count": len(values), **at, "max": ordered[-1], "values_ms": [round(v * 1e3, 3) for v in values]}


PERCENTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}


def serve_and_run(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One controller process, one fleet."""
    tokens = {scope: secrets.token_urlsafe(32) for scope in ("read", "join", "admin")}
    settings = {
        "name": "bench", "workers": options.workers, "least": options.workers,
        "gather_s": options.gather_s, "start_timeout_s": 600.0,
    }  # fmt: skip
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0), backlog=1024) as listener,
    ):
        job, file = Path(folder) / "job.json", Path(folder) / "tokens.json"
        job.write_text(json.dumps(settings))
        file.touch(mode=0o600)
        file.write_text(json.dumps(tokens))
        command = [sys.executable, "-m", "holdtrue.elastic", "--job", str(job), "--tokens", str(file)]
        with (Path(folder) / "log").open("wb") as log:
            server = subprocess.Popen(
                ["taskset", "-c", "0", *command, "--fd", str(listener.fileno())],
                pass_fds=[listener.fileno()], stdout=log, stderr=log,
            )  # fmt: skip
            try:
                port = listener.getsockname()[1]
                return asyncio.run(run_once(f"http://127.0.0.1:{port}", tokens, options, seed))
            finally:
                server.kill()
                server.wait(10)


def main() -> None:
    """Run the repeats and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=40.0, help="of joins and leaves, in each repeat")
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second, on average")
    parser.add_argument("--gather-s", type=float, default=0.001, help="how long a joiner waits for others")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", help="raw JSON file")
    options = parser.parse_args()
    os.sched_setaffinity(0, {1})  # the controller has core 0 for itself
    runs = [serve_and_run(options, seed) for seed in range(options.repeats)]
    values = describe("python benchmarks/control_plane.py")
    values["versions"] |= {name: version(name) for name in ("fastapi", "uvicorn", "websockets")}
    values["settings"] = {k: v for k, v in vars(options).items() if k != "out"}
    values["results"] = {
        name: spread([run["all"][name] for run in runs]) for name in ("p50", "p90", "p99", "max")
    } | {"requests": spread([run["all"]["count"] for run in runs]), "runs": runs}
    for run in runs:
        figures = {name: f"{run['all'][name] * 1e3:.1f} ms" for name in ("p50", "p90", "p99", "max")}
        print(
            run["all"]["count"],
            "requests",
            figures,
            "generations",
            run["generations"],
            "unanswered",
            run["unanswered"],
        )
        for kind, summary in run["requests"].items():
            print(
                "   ",
                kind,
                summary["count"],
                f"p50 {summary['p50'] * 1e3:.1f} p99 {summary['p99'] * 1e3:.1f} ms",
            )
    write_json(options.out, values)


if __name__ == "__main__":
    main()
