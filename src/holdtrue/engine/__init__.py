"""One step on one worker, and the training state that it changes.

    in:  a plan, a group, a mapping, the registered models and optimizers
    out: Engine (passes -> reduce -> update), TrainingState (digest, checkpoint), BufferBook

The engine never hears of membership: who is in the group, and why, is decided elsewhere.
"""

from ._apply import has_gradient
from ._buffer_keep import KeptBuffers
from ._checkpoint import Checkpoint, load_checkpoint, newest_checkpoint, write_checkpoint
from ._digest import digest_entries, flatten_state, hash_entry
from ._engine import Engine
from ._ledger import NOTICE_BYTES
from ._memory import keep_freed_memory, warm_memory
from ._numbers import checked_number, checked_weight, describe_value, one_number
from ._numerics import apply_numerics, specialise_compiled_shapes
from ._portable import PassNumerics
from ._round import OrderFunction, RoundResult
from ._state import Optimizer, TrainingState
from ._streams import PassStreams, export_user_streams, import_user_streams
from ._timing import CudaTimer, HostTimer, PassTimer, timed_by
from ._transfer import (
    StateText,
    bytes_to_state,
    copy_state,
    read_state_text,
    state_to_bytes,
    write_state_text,
)

__all__ = [
    "NOTICE_BYTES",
    "Checkpoint",
    "CudaTimer",
    "Engine",
    "HostTimer",
    "KeptBuffers",
    "Optimizer",
    "OrderFunction",
    "PassNumerics",
    "PassStreams",
    "PassTimer",
    "RoundResult",
    "StateText",
    "TrainingState",
    "apply_numerics",
    "bytes_to_state",
    "checked_number",
    "checked_weight",
    "copy_state",
    "describe_value",
    "digest_entries",
    "export_user_streams",
    "flatten_state",
    "has_gradient",
    "hash_entry",
    "import_user_streams",
    "keep_freed_memory",
    "load_checkpoint",
    "newest_checkpoint",
    "one_number",
    "read_state_text",
    "specialise_compiled_shapes",
    "state_to_bytes",
    "timed_by",
    "warm_memory",
    "write_checkpoint",
    "write_state_text",
]
