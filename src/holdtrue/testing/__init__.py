"""What tests of a training script need: several workers in one process, and the streams of a pass.

results = run_in_process(main, mapping="0-3/4-7")      # main() per worker, as threads taking turns
set_pass_streams(seed, step, round, virtual_node)       # the random streams that a pass starts from
"""

from ._inprocess import restore_globals, run_in_process, save_globals
from ._streams import set_pass_streams

__all__ = ["restore_globals", "run_in_process", "save_globals", "set_pass_streams"]
