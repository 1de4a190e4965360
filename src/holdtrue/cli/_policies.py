"""Names of the policies, for help pages: the policies themselves load numpy and scipy, which a help page need not wait for."""

LIVE_POLICIES = ("fifo", "priority", "srtf", "wfs", "wfs-any", "queues")
"""Those that decide about live jobs."""
POLICIES = (
    *LIVE_POLICIES,
    "max-min",
    "max-min-aware",
    "max-min-mixed",
    "max-min-aware-mixed",
    "finish-time",
    "makespan",
)
"""All, for the simulator."""
