"""The scheduler's process: one a cluster, behind a token, on loopback."""

import asyncio
import json
import logging
import os
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast, final

from holdtrue.cluster import Cluster
from holdtrue.errors import UsageError
from holdtrue.launch import is_locked, take_lock
from holdtrue.service import App, make_tokens, serve_app, write_private

from ._engine_choice import EngineChoice, engine_from_text
from ._records import Place

if TYPE_CHECKING:
    import uvicorn

    from ._scheduler import Scheduler
    from ._store import Store

_MOST_MESSAGE_BYTES = 65_536
_log = logging.getLogger("holdtrue.scheduler")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a living scheduler is found."""

    url: str
    pid: int
    token_file: str


def serve_cluster(
    folder: Path,
    cluster: Cluster | None,
    policy: str | None,
    engine: EngineChoice | None = None,
    memory_bytes: int | None = None,
) -> None:
    """Serve the cluster of a folder until it is stopped.

    Args:
        folder: Where it keeps its files.
        cluster: Devices and queues; None for those that it had, or with Ray what that has.
        policy: Name; None for the one that was in force, or wfs.
        engine: What runs the jobs; None for what it had, or the embedded one.
        memory_bytes: Memory that goes with one CPU slot; None for what it had, or the machine's part.

    Raises:
        UsageError: a scheduler lives there, or the cluster cannot be as asked.

    Blocks:
        Until `holdtrue cluster stop`, SIGTERM or SIGINT.
    """
    place = Place(folder=folder)
    make_folder(folder)
    lock = take_lock(place.lock)
    if lock is None:
        raise UsageError(_already(place))
    try:
        asyncio.run(_serve(place, cluster, policy, engine, memory_bytes))
    finally:
        place.address.unlink(missing_ok=True)
        place.tokens.unlink(missing_ok=True)
        os.close(lock)


async def _serve(
    place: Place,
    cluster: Cluster | None,
    policy: str | None,
    choice: EngineChoice | None,
    memory_bytes: int | None,
) -> None:
    # The web framework and the database load here: a command that only looks for a scheduler does not need them.
    from ._open_engine import open_engine
    from ._scheduler import Scheduler
    from ._store import Store

    store = Store(place.database)
    try:
        engine, cluster = open_engine(place, store, cluster, choice, memory_bytes)
    except BaseException:
        store.close()
        raise
    try:
        await _serve_with(place, store, Scheduler(store, engine, cluster, policy))
    finally:
        engine.close(is_idle=not any(record.state == "running" for record in store.jobs()))
        store.close()


async def _serve_with(place: Place, store: "Store", scheduler: "Scheduler") -> None:
    from ._service import build_app

    tokens = make_tokens()
    write_private(place.tokens, json.dumps(dict(tokens.by_scope)))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        port = listener.getsockname()[1]
        address = Address(url=f"http://127.0.0.1:{port}", pid=os.getpid(), token_file=str(place.tokens))
        write_private(place.address, json.dumps(asdict(address)))
        _log.info("the scheduler of %s listens on %s", place.folder, address.url)

        async def work(server: "uvicorn.Server") -> None:
            await scheduler.work()
            server.should_exit = True

        await serve_app(
            cast(App, build_app(scheduler, store, place)),
            tokens=tokens,
            listener=listener,
            most_message_bytes=_MOST_MESSAGE_BYTES,
            beside=work,
        )


def make_folder(folder: Path) -> None:
    """Make the folder of a cluster, if it is not there.

    Raises:
        UsageError: it cannot be made, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        reason = None if os.access(folder, os.W_OK | os.X_OK) else "nothing can be written there"
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
    if reason is not None:
        raise UsageError(
            f"the cluster's folder {folder} cannot be used ({reason}); the scheduler keeps its files in a folder of its own. "
            f"Name another --dir."
        )


def is_alive(place: Place) -> bool:
    """Whether a scheduler lives in a folder."""
    return is_locked(place.lock)


def read_address(place: Place) -> Address | None:
    """Where the scheduler of a folder listens; None for none, or one that is about to."""
    try:
        return Address(**json.loads(place.address.read_text())) if is_alive(place) else None
    except (OSError, ValueError, TypeError):
        return None


def _already(place: Place) -> str:
    address = read_address(place)
    who = f" (process {address.pid}, {address.url})" if address is not None else ""
    return (
        f"a cluster is running already in {place.folder}{who}; there is one scheduler in a folder. "
        f"Submit to it, end it with `holdtrue cluster stop`, or name another --dir."
    )


def check_not_alive(place: Place) -> None:
    """Refuse a second scheduler.

    Raises:
        UsageError: one lives in the folder.
    """
    if is_alive(place):
        raise UsageError(_already(place))


def main(arguments: list[str]) -> int:
    """The process that `holdtrue cluster start` starts: FOLDER DEVICES QUEUES POLICY ENGINE MEMORY, empty for what it had."""
    from holdtrue.cluster import parse_cluster

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    folder, devices, queues, policy, engine, memory = arguments
    try:
        serve_cluster(
            Path(folder),
            parse_cluster(devices, queues) if devices else None,
            policy or None,
            engine_from_text(engine) if engine else None,
            int(memory) if memory else None,
        )
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
