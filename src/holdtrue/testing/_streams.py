"""Random streams of passes, for plain loops that a run is compared with."""

import torch

from holdtrue.engine import PassStreams
from holdtrue.plan import stream_key


def set_pass_streams(seed: int, step: int, round_: int, virtual_node: int) -> None:
    """Set the CPU's random streams as a run does before this pass."""
    PassStreams(torch.device("cpu")).set(stream_key(seed, "pass", step, round_, virtual_node))
