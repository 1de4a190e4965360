"""Every environment variable of holdtrue's, in one list, so that a misspelt one can be told."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from ._settings import CLI_VARIABLE, SETTING_VARIABLES, SURVEY_VARIABLE

_PREFIX = "HOLDTRUE_"
_OFFERED = frozenset(
    {
        SETTING_VARIABLES[name]
        for name in SETTING_VARIABLES
        if name not in ("expected", "costs", "hold_at", "device_percent")
    }
    | {"HOLDTRUE_CLUSTER", "HOLDTRUE_MAPPING", "HOLDTRUE_NUMERICS_ENGINE", "HOLDTRUE_TOKEN"}
)
"""Those that people set."""
KNOWN_VARIABLES = _OFFERED | {
    *SETTING_VARIABLES.values(),
    *(CLI_VARIABLE, SURVEY_VARIABLE),
    *("HOLDTRUE_DEVICE_LEASES", "HOLDTRUE_DEVICE_MEMORY"),  # from the scheduler to a job's launcher
    *(
        "HOLDTRUE_DRAW",
        "HOLDTRUE_OTHER_PYTHON",
        "HOLDTRUE_REFERENCE_DATA",
        "HOLDTRUE_TRITON",
    ),  # for the tests
}
"""All but those that `KNOWN_PREFIXES` begin."""
KNOWN_PREFIXES = ("HOLDTRUE_WORKER_", "HOLDTRUE_SOAK_")
"""What a launcher tells its workers, who refuse unknown names themselves; how long the soak tests take."""

_OF_KUBERNETES = re.compile(r"_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)$")
"""What Kubernetes sets in every pod for a service, whose name may begin with holdtrue."""


def describe_unknown_variables(names: Iterable[str]) -> list[str]:
    """A sentence on each variable that looks like one of holdtrue's and is none. Pure.

    Args:
        names: Of all variables.

    >>> describe_unknown_variables(["HOLDTRUE_SEDE", "HOLDTRUE_SEED", "HOLDTRUE_JOB_PORT_4100_TCP", "PATH"])
    ['the variable HOLDTRUE_SEDE is none of those that holdtrue reads; did you mean HOLDTRUE_SEED?']
    """
    unknown = [
        name
        for name in sorted(names)
        if name.startswith(_PREFIX)
        and name not in KNOWN_VARIABLES
        and not name.startswith(KNOWN_PREFIXES)
        and not _OF_KUBERNETES.search(name)
    ]
    return [f"the variable {name} is none of those that holdtrue reads; {_way_out(name)}" for name in unknown]


def _way_out(name: str) -> str:
    offered = {known.removeprefix(_PREFIX): known for known in sorted(_OFFERED)}
    near = get_close_matches(name.removeprefix(_PREFIX), offered, n=1)
    return (
        f"did you mean {offered[near[0]]}?" if near else "those there are have names such as HOLDTRUE_SEED."
    )
