"""From a data source to the batch of one virtual node in one step.

    in:  a dataset, DataLoader or iterable; a plan; (epoch, step, virtual node)
    out: the order of an epoch -> Schedule -> Fetch -> Loader -> a batch of fresh tensors

Bits of a batch depend on the seed and the fetch alone: not on workers, devices or what was read before.
"""

from ._fresh import Batch, batch_to_device, freshen, is_fresh, map_tensors
from ._loader import Loader
from ._order import IndexArray, epoch_order
from ._samplers import sampler_order
from ._schedule import Chunk, Fetch, Schedule, chunk_at, chunks
from ._shards import IterableShards, ShardRead
from ._source import IterableSource, LoaderWorkers, MapSource, Source, open_source
from ._streams import (
    HostStreams,
    StreamStart,
    prepare_host_streams,
    restore_host_streams,
    save_host_streams,
    set_host_streams,
    torch_state_of,
)

__all__ = [
    "Batch",
    "Chunk",
    "Fetch",
    "HostStreams",
    "IndexArray",
    "IterableShards",
    "IterableSource",
    "Loader",
    "LoaderWorkers",
    "MapSource",
    "Schedule",
    "ShardRead",
    "Source",
    "StreamStart",
    "batch_to_device",
    "chunk_at",
    "chunks",
    "epoch_order",
    "freshen",
    "is_fresh",
    "map_tensors",
    "open_source",
    "prepare_host_streams",
    "restore_host_streams",
    "sampler_order",
    "save_host_streams",
    "set_host_streams",
    "torch_state_of",
]
