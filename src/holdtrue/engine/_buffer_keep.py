"""Buffers around the passes of an evaluation: each pass starts from the same values, and none is left behind."""

from collections.abc import Mapping

import torch

from ._buffer_family import write_unlike
from ._buffer_places import Place, same_kind
from ._modules import ModelWatch


class KeptBuffers:
    """The buffers of modules as they are now, to be put back after each pass.

    Without this a counter, or statistics of a layer that the script has put into training mode, would depend on which
    passes ran on this worker. Buffers that appear in a pass, or get another shape, are left: they are caches.

    Args:
        models: Named models.
    """

    def __init__(self, models: Mapping[str, torch.nn.Module]) -> None:
        self._watch = ModelWatch(models)
        self._watch.walk()
        self._versions = self._watch.versions()
        self._places = [
            Place.of(module._buffers, key, tensor)
            for _, module in self._watch.modules
            for key, tensor in module._buffers.items()
            if tensor is not None and tensor.layout == torch.strided and not tensor.is_quantized
        ]
        by_device: dict[torch.device, dict[int, torch.Tensor]] = {}
        for place in self._places:
            by_device.setdefault(place.memory.device, {})[id(place.tensor)] = place.memory
        self._kept = [
            (list(tensors.values()), [t.clone() for t in tensors.values()])
            for device, tensors in by_device.items()
            if device.type != "meta"
        ]

    @torch.no_grad()
    def put_back(self) -> None:
        """Give every buffer its value, and the memory in which it lay."""
        for place in self._places:
            now = place.owner.get(place.key)
            if now is not None and same_kind(now, place.memory):
                place.hang_back()
        for tensors, values in self._kept:
            write_unlike(tensors, values)

    def refuse_changes(self, when: str) -> None:
        """Refuse parameters that a pass wrote or made; see `ModelWatch.refuse_changes`."""
        self._watch.refuse_changes(self._versions, when=when)
