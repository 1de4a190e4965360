"""Whether models still have the modules and parameters that they had when they were walked last.

Walking a model costs about 5 us a module, and every round needs to know: modules and parameters come and go, and the user
freezes and thaws. Comparing what hangs where, object by object, costs a tenth.
"""

from collections.abc import Mapping
from itertools import chain
from operator import attrgetter, is_, methodcaller
from typing import Any

import torch

from holdtrue.errors import NumericsError

_values_of = methodcaller("values")
_kind_of = attrgetter("requires_grad", "dtype", "shape", "device")


def hanging_in(dicts: list[dict[str, Any]]) -> list[Any]:  # Any: modules, parameters or buffers, and None
    """Everything that hangs in these dictionaries of modules."""
    return list(chain.from_iterable(map(_values_of, dicts)))


def are_same(now: list[Any], before: list[Any]) -> bool:  # Any: as above
    """Whether two lists hold the same objects."""
    return len(now) == len(before) and all(map(is_, now, before))


class ModelWatch:
    """What hung where in models when `walk` was called last.

    Args:
        models: Named models.
    """

    def __init__(self, models: Mapping[str, torch.nn.Module]) -> None:
        self._models = models
        self.modules: list[tuple[str, torch.nn.Module]] = []
        """Path and module."""
        self._children_dicts: list[dict[str, Any]] = []
        self._parameter_dicts: list[dict[str, Any]] = []
        self._children: list[Any] = [None]  # unlike those of models that were walked
        self._parameters: list[Any] = []
        self._kinds: list[tuple[Any, ...]] = []

    def walk(self) -> None:
        """Keep what hangs where now."""
        seen: set[torch.nn.Module] = set()  # one model may be a part of another
        self.modules = [
            (".".join(filter(None, (prefix, path))).replace("_orig_mod.", ""), module)
            for prefix, model in self._models.items()
            for path, module in model.named_modules(memo=seen)
        ]
        self._children_dicts = [module._modules for _, module in self.modules]
        self._parameter_dicts = [module._parameters for _, module in self.modules]
        self._children = hanging_in(self._children_dicts)
        self._parameters = hanging_in(self._parameter_dicts)
        self._kinds = self._present_kinds()

    def has_same_modules(self) -> bool:
        """Whether every module is where it was."""
        return are_same(hanging_in(self._children_dicts), self._children)

    def has_same_parameters(self) -> bool:
        """Whether every parameter is where it was, and needs a gradient, and is of the dtype, shape and device, as it was."""
        return (
            are_same(hanging_in(self._parameter_dicts), self._parameters)
            and self._present_kinds() == self._kinds
            and self.has_same_modules()
        )

    def versions(self) -> list[int]:
        """How often each parameter was written in place."""
        return [0 if p is None or p.is_inference() else p._version for p in self._parameters]

    def refuse_changes(self, versions: list[int], *, when: str) -> None:
        """Refuse parameters that passes wrote or made.

        Which passes ran on this worker would decide what they are; buffers have rules for that.

        Args:
            versions: Those before the passes.
            when: Where these passes were, for the message.

        Raises:
            NumericsError: there are some; the message names one.
        """
        is_same = are_same(hanging_in(self._parameter_dicts), self._parameters) and self.has_same_modules()
        if is_same and self.versions() == versions:
            return
        before = {id(p): version for p, version in zip(self._parameters, versions, strict=True)}
        for prefix, model in self._models.items():
            for path, p in model.named_parameters():
                if id(p) in before and (p.is_inference() or p._version == before[id(p)]):
                    continue
                if p.is_cuda and isinstance(model.get_submodule(path.rpartition(".")[0]), torch.nn.RNNBase):
                    continue  # flatten_parameters() in forward lays it elsewhere
                what = "changed" if id(p) in before else "made"
                name = ".".join(filter(None, (prefix, path))).replace("_orig_mod.", "")
                raise NumericsError(
                    f"{when} a pass {what} parameter {name!r}; a pass leaves parameters as they are, for what they are would "
                    f"depend on which passes ran on a worker. Change them after step.update, make them before run.steps, "
                    f"and build an embedding without max_norm."
                )

    def _present_kinds(self) -> list[tuple[Any, ...]]:
        """What `model.bfloat16()` and the like change, which keep the objects."""
        return list(map(_kind_of, filter(_is_there, self._parameters)))


def _is_there(parameter: torch.nn.Parameter | None) -> bool:
    return parameter is not None
