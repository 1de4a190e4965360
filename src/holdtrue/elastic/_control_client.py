"""What commands and the scheduler ask of a running job's controller, over HTTP."""

from dataclasses import replace
from typing import Any, final

from holdtrue.service import Caller, CallerWords

_WORDS = CallerWords(
    who="the controller",
    silent="Training goes on without it; ask again, or see its log.",
    gone="Training goes on without it; its launcher starts it again. If the job has ended, `holdtrue status` says so.",
    found_by="`holdtrue status JOB`",
)


@final
class ControlClient:
    """One job's controller. Each call is one connection; safe to use from several threads."""

    def __init__(self, *, url: str, token: str, timeout_s: float = 10.0, token_way_out: str = "") -> None:
        """Prepare to ask; nothing is sent yet.

        Args:
            url: The controller's, such as `http://127.0.0.1:41000`.
            token: Of scope read to look, of scope admin to change.
            timeout_s: Bound of each call.
            token_way_out: Where the user gave the token: what to do if the controller does not know it, as a sentence.

        Raises:
            UsageError: the URL is none.
        """
        self._caller = Caller(
            url=url, token=token, timeout_s=timeout_s, words=replace(_WORDS, token_way_out=token_way_out)
        )

    def job(self) -> dict[str, Any]:  # Any: JSON values
        """Members, hosts, target and progress: the fields of `GET /v1/job`."""
        return self._caller.ask("GET", "/v1/job")

    def health(self) -> dict[str, Any]:  # Any: JSON values
        """Name and phase of the job."""
        return self._caller.ask("GET", "/v1/health")

    def description(self) -> dict[str, Any]:  # Any: JSON values
        """What a host that joins is told of the job."""
        return dict(self._caller.ask("GET", "/v1/description")["description"])

    def events(self, after: int = 0, *, limit: int = 200) -> dict[str, Any]:  # Any: JSON values
        """Events after a number, the oldest first: `events`, `newest` and `dropped`."""
        return self._caller.ask("GET", f"/v1/events?after={after}&limit={limit}")

    def resize(self, workers: int) -> str:
        """Aim at another number of workers; returns what became of it, as sentences.

        Raises:
            UsageError: the job cannot have that number, or is ending.
        """
        return str(self._caller.ask("POST", "/v1/resize", {"workers": workers})["reason"])

    def stop(self, reason: str = "asked by the user") -> str:
        """End the job at the next boundary, with a checkpoint."""
        return str(self._caller.ask("POST", "/v1/stop", {"reason": reason})["reason"])

    def set_mapping(self, mapping: str | None) -> str:
        """Use another mapping of the same members from the next boundary on; None for the even one.

        Raises:
            UsageError: it does not fit the members, or the job is ending.
        """
        return str(self._caller.ask("POST", "/v1/mapping", {"mapping": mapping})["reason"])
