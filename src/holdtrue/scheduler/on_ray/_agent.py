"""The process that speaks with Ray for a scheduler: `python -m holdtrue.scheduler.on_ray._agent ADDRESS NAMESPACE`.

A line of JSON in, a line of JSON out. It ends with its standard input, and may be killed at any moment: actors are
detached, have names, and are found again.

{"ask": "start", "order": {...}}                   -> {}
{"ask": "stop", "name": NAME, "at_once": true}     -> {}
{"ask": "look"}                                    -> {"living", "waiting", "ended", "devices", "addresses", "nodes"}
"""

import contextlib
import json
import os
import sys
from typing import Any, final

from ._choice import READY
from ._loopback import stay_on_loopback

_REASON_CHARS = 300


def main(arguments: list[str]) -> int:
    """Connect, and answer until nobody asks any more."""
    address, namespace = arguments
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever Ray prints is no answer
    import ray

    stay_on_loopback(address)
    try:
        ray.init(address=address, namespace=namespace, log_to_driver=False, configure_logging=False)
    except Exception as error:  # noqa: BLE001  # whatever Ray raises where there is no cluster
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:_REASON_CHARS]}), file=answers)
        return 1
    agent = Agent(namespace)
    print(json.dumps({"answer": READY}), file=answers)
    for line in sys.stdin:
        print(json.dumps({"answer": agent.answer(json.loads(line))}), file=answers)
    os._exit(0)  # actors are detached; Ray's own leave-taking may wait for a cluster that is gone


@final
class Agent:
    """The actors of one scheduler; mutable, used by one thread."""

    def __init__(self, namespace: str) -> None:
        """Find the actors that an agent before this one started."""
        import ray

        from ._actor import HostActor

        self._ray, self._namespace = ray, namespace
        self._kind = ray.remote(HostActor)
        self._actors: dict[str, Any] = {}  # Any: Ray's handles
        self._ends: dict[str, Any] = {}
        self._places: dict[str, Any] = {}
        self._node_of: dict[str, str] = {}
        for name in ray.util.list_named_actors():
            with contextlib.suppress(ValueError):  # it has ended meanwhile
                self._know(name, ray.get_actor(name))

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
        """Do what is asked."""
        if asked["ask"] == "start":
            self._start(asked["order"])
            return {}
        if asked["ask"] == "stop":
            self._stop(asked["name"], at_once=asked["at_once"])
            return {}
        return self._look()

    def _start(self, order: dict[str, Any]) -> None:
        if order["name"] in self._actors:
            return
        actor = self._kind.options(
            name=order["name"],
            namespace=self._namespace,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=0,
            max_concurrency=8,
            **demand_of(order["kind"], order["percent"]),
        ).remote(order)
        self._know(order["name"], actor)

    def _know(self, name: str, actor: Any) -> None:
        self._actors[name] = actor
        self._ends[name] = actor.end.remote()
        self._places[name] = actor.place.remote()

    def _stop(self, name: str, *, at_once: bool) -> None:
        actor = self._actors.get(name)
        if actor is None:
            return
        if at_once:
            self._ray.kill(actor, no_restart=True)
        else:
            actor.leave.remote()

    def _look(self) -> dict[str, Any]:
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        living = {node["NodeID"] for node in nodes}
        for name, end in self._ready(self._places).items():
            del self._places[name]
            if isinstance(end, dict):
                self._node_of[name] = end["node"]
        ended = {}
        for name, end in self._ready(self._ends).items():
            if isinstance(end, self._ray.exceptions.ActorUnavailableError):
                self._ends[name] = self._actors[name].end.remote()  # its machine may come back, or be lost
                continue
            if end == {}:  # it has not ended
                self._ends[name] = self._actors[name].end.remote()
                continue
            actor = self._actors.pop(name)
            del self._ends[name]
            self._places.pop(name, None)
            if isinstance(end, dict):
                self._ray.kill(actor, no_restart=True)  # its device is free from now on
                ended[name] = end | {"with_machine": False}
            else:
                node = self._node_of.pop(name, None)
                is_lost = node is not None and node not in living
                sentence = "Its node of the Ray cluster was lost." if is_lost else _say_death(end)
                ended[name] = {"status": None, "sentence": sentence, "with_machine": is_lost}
        count = {kind: sum(node["Resources"].get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU")}
        return {
            "living": sorted(self._actors),
            "waiting": sorted(self._places),
            "ended": ended,
            "devices": {"cpu": int(count["CPU"]), "cuda": int(count["GPU"])},
            "addresses": sorted({node["NodeManagerAddress"] for node in nodes}),
            "nodes": sorted(living),
        }

    def _ready(self, refs: dict[str, Any]) -> dict[str, Any]:
        """Results of the calls that are over, or the errors that they ended with."""
        if not refs:
            return {}
        done, _ = self._ray.wait(list(refs.values()), num_returns=len(refs), timeout=0)
        found: dict[str, Any] = {}
        for name, ref in refs.items():
            if ref in done:
                try:
                    found[name] = self._ray.get(ref)
                except Exception as error:  # noqa: BLE001  # whatever Ray says of an actor that is gone
                    found[name] = error
        return found


def demand_of(kind: str, percent: int) -> dict[str, float]:
    """What a host asks Ray for: its part of a CPU, or of a GPU, which Ray then shows to it alone. Pure.

    >>> demand_of("cuda", 50)
    {'num_cpus': 0.0, 'num_gpus': 0.5}
    """
    part = percent / 100
    return {"num_cpus": 0.0, "num_gpus": part} if kind == "cuda" else {"num_cpus": part}


def _say_death(error: Exception) -> str:
    """Ray's own words on the end of an actor, in one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = next((line for line in lines if "dead because" in line or "died because" in line), "")
    said = said or (lines[0] if lines else type(error).__name__)
    return said.split(" Worker exit type")[0][:_REASON_CHARS]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
