"""One machine's processes of an elastic job: started and ended as the controller says."""

import os
from dataclasses import dataclass
from typing import final

from holdtrue.wire import WorkerEnvironment

from ._at import AtPage
from ._crew import Crew
from ._job import JobSpec
from ._place import Place, bind
from ._watchman import Guard
from ._worker import Worker, start_worker


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Starts workers of one job on this machine."""

    spec: JobSpec
    place: Place
    crew: Crew
    guard: Guard
    life_fd: int

    def start(self, number: int, device: str) -> Worker:
        """Start worker `number` on `device`, with a store socket and a page of its own.

        Raises:
            UsageError: nothing can listen on this machine's address.
            OSError: the machine has no room for another process.
        """
        with bind(self.place.address) as store:
            at = AtPage()
            environment = WorkerEnvironment(
                worker=number,
                store_host=self.place.address,
                store_port=store.getsockname()[1],
                store_fd=store.fileno(),
                life_fd=self.life_fd,
                job=self.spec.name,
                device=device,
                controller_url=self.place.url,
                token_file=str(self.place.token_file),
                group_timeout_s=self.place.group_timeout_s,
            )
            try:
                worker = start_worker(
                    self.spec,
                    environment,
                    log=self.place.logs / f"worker-{number}.log",
                    base_env=os.environ,
                    guard=self.guard,
                    at=at,
                )
            except BaseException:
                at.close()
                raise
        self.crew.add(worker)
        return worker
