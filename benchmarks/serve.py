"""`holdtrue serve` against ordinary dynamic batching and against the plain model behind the same HTTP server.

python benchmarks/serve.py --out benchmarks/raw/serve.json        needs wrk, the load generator (Debian: apt install wrk)
python benchmarks/serve.py --render benchmarks/raw/serve.json     writes docs/results/serving.md

All servers of a model run at once and are asked in turn, so that a slow minute of the machine meets all of them.
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from common import describe, spread, write_json
from serve_models import SHAPES

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results" / "serving.md"
PORTS = {"exact": 4711, "fast": 4712, "plain": 4713}
NAMES = {
    "exact": "holdtrue serve",
    "fast": "holdtrue serve --numerics fast (dynamic batching)",
    "plain": "plain model, FastAPI and uvicorn",
}
PASS_SIZE = 8
BODIES = 64
SCRIPT = """
local bodies = {}
for line in io.lines("BODIES") do bodies[#bodies + 1] = line end
local at = 0
request = function()
  at = at % #bodies + 1
  return wrk.format("POST", "/v1/predict", {["Content-Type"] = "application/json"}, bodies[at])
end
done = function(summary, latency)
  io.write(string.format('RESULT {"requests": %d, "us": %d, "bad": %d, "p50_us": %d, "p99_us": %d, "max_us": %d}\\n',
    summary.requests, summary.duration,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""
PREFACE = """# Serving, measured

Made by `python benchmarks/serve.py --render benchmarks/raw/serve.json`: medians of {rounds} rounds, with the smallest and
largest in brackets. The load is `{wrk}`, one thread, each connection asking again when it was
answered; all servers run at once and are asked in turn. One worker of one thread each; load generator, HTTP side and worker
share two cores. {note}

The last row is the plain model in a FastAPI application under the same uvicorn with the same reader of JSON, in one process,
a pass for each request.
Ratios are against it: of throughput (more is better) and of the 99th percentile of the time to an answer (less is better).
Only the first row promises the bits of an answer."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--render")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--connections", default="1,32")
    parser.add_argument(
        "--note", help="what a reader of the figures must know, for the raw file and the page"
    )
    args = parser.parse_args()
    if args.render:
        PAGE.write_text(render(json.loads(Path(args.render).read_text())))
        return
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed; it makes the load. Debian: apt install wrk")
    results: dict[str, Any] = {}
    loads = [os.getloadavg()[0]]
    for model in SHAPES:
        results[model] = measure(model, args)
        loads.append(os.getloadavg()[0])
    command = "python benchmarks/serve.py"
    version = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False).stdout.split(
        "\n"
    )[0]
    write_json(
        args.out,
        {
            **describe(command),
            "wrk": version,
            "pass_size": PASS_SIZE,
            "load_average": loads,
            "results": results,
            **({"note": args.note} if args.note else {}),
        },
    )


def measure(model: str, args: argparse.Namespace) -> dict[str, Any]:
    """Throughput and latency of each server, by connections."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        x = np.random.default_rng(0).normal(size=(BODIES, *SHAPES[model])).astype(np.float32)
        np.save(folder / "x.npy", x)
        (folder / "bodies").write_text("".join(json.dumps({"instances": [row.tolist()]}) + "\n" for row in x))
        (folder / "load.lua").write_text(SCRIPT.replace("BODIES", str(folder / "bodies")))
        passes = {kind: stack.enter_context(server(kind, model, folder)) for kind in PORTS}
        found: dict[str, Any] = {"passes": passes["exact"]}
        for connections in map(int, args.connections.split(",")):
            rounds: dict[str, list[dict[str, Any]]] = {kind: [] for kind in PORTS}
            for kind in PORTS:
                ask_wrk(kind, connections, 1, folder)  # warm
            for _ in range(args.repeats):
                for kind in PORTS:
                    rounds[kind].append(ask_wrk(kind, connections, args.seconds, folder))
            found[str(connections)] = {
                kind: {
                    "requests_per_s": spread([r["requests"] / r["us"] * 1e6 for r in of]),
                    "p50_ms": spread([r["p50_us"] / 1e3 for r in of]),
                    "p99_ms": spread([r["p99_us"] / 1e3 for r in of]),
                    "bad": sum(r["bad"] for r in of),
                }
                for kind, of in rounds.items()
            }
            for kind, r in found[str(connections)].items():
                rate, p99 = r["requests_per_s"]["median"], r["p99_ms"]["median"]
                print(
                    f"{model} {connections} {kind}: {rate:.0f}/s, p99 {p99:.1f} ms, failed {r['bad']}",
                    flush=True,
                )
        return found


def ask_wrk(kind: str, connections: int, seconds: int, folder: Path) -> dict[str, Any]:
    """One run of the load generator."""
    words = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--timeout", "20s"]
    words += ["-s", str(folder / "load.lua"), f"http://127.0.0.1:{PORTS[kind]}"]
    said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    line = next(row for row in said.splitlines() if row.startswith("RESULT "))
    found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return found


@contextmanager
def server(kind: str, model: str, folder: Path) -> Iterator[str]:
    """A server that runs; gives how its passes are made."""
    port = PORTS[kind]
    if kind == "plain":
        words = [sys.executable, str(HERE / "serve_plain.py"), model, str(port)]
    else:
        words = [sys.executable, "-m", "holdtrue", "serve", f"{HERE / 'serve_models.py'}:{model}"]
        words += ["--example", str(folder / "x.npy"), "--numerics", kind, "--pass-size", str(PASS_SIZE)]
        words += ["--listen", f"127.0.0.1:{port}", "--name", f"bench-{kind}", "--device", "cpu"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "XDG_RUNTIME_DIR": str(folder)}
    with open(folder / f"{kind}.log", "w") as log:
        process = subprocess.Popen(words, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        yield wait_for(port, folder / f"{kind}.log")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def wait_for(port: int, log: Path) -> str:
    """What a server says of its passes, once it answers."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            line = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            line.request("GET", "/v1/model")
            return str(json.loads(line.getresponse().read()).get("passes", ""))
        except OSError:
            time.sleep(0.2)
    sys.exit(f"the server on port {port} does not answer:\n{log.read_text()}")


def render(raw: dict[str, Any]) -> str:
    """The page of results."""
    results = raw["results"]
    rounds = len(results["perceptron"]["1"]["exact"]["p99_ms"]["values"])
    lines = PREFACE.format(
        rounds=rounds, wrk=raw["wrk"].partition(" [")[0], note=raw.get("note", "")
    ).splitlines()
    for model, found in results.items():
        numbers = " x ".join(map(str, SHAPES[model]))
        lines += ["", f"## {model}: {numbers} numbers a request", "", f"{found['passes'].capitalize()}."]
        for connections in (c for c in found if c != "passes"):
            lines += [
                "",
                f"{connections} connection{'s' if connections != '1' else ''}:",
                "",
                *table_of(found[connections]),
            ]
    lines += [
        "",
        f"Raw: [serve.json](../../benchmarks/raw/serve.json), with device and versions; `{raw['command']}`.",
        "",
    ]
    return "\n".join(lines)


def table_of(kinds: dict[str, Any]) -> list[str]:
    """One table of the page."""
    lines = ["| server | requests/s | ratio | p50 | p99 | ratio | failed |", "| --- " * 7 + "|"]
    base = kinds["plain"]
    for kind, r in kinds.items():
        rate, p99 = r["requests_per_s"], r["p99_ms"]
        cells = (
            NAMES[kind],
            f"{rate['median']:.0f} ({rate['min']:.0f}..{rate['max']:.0f})",
            f"{rate['median'] / base['requests_per_s']['median']:.2f}",
            f"{r['p50_ms']['median']:.1f} ms",
            f"{p99['median']:.1f} ms ({p99['min']:.1f}..{p99['max']:.1f})",
            f"{p99['median'] / base['p99_ms']['median']:.2f}",
            str(r["bad"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
