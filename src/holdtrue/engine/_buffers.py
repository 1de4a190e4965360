"""Buffers of the model: every pass starts from the same values, and one rule makes the next ones.

Without this, running statistics would depend on which passes ran on this worker, and in what order.
A buffer that no pass changes, or that all passes change alike, takes that value. Statistics of
torch.nn's norm layers take the mean over virtual nodes, weighted by examples, added in float64 in the
order of the tree. Integer buffers take the value of the lowest virtual node that has examples. Any
other buffer needs a rule from the user.
"""

import json
from collections.abc import Mapping, Sequence

import safetensors.torch
import torch

from holdtrue.mapping import Mapping as NodeMapping
from holdtrue.mapping import Tree
from holdtrue.reduce import Group

from ._buffer_family import (
    Bits,
    Family,
    Settlement,
    Tracked,
    bits_of,
    settle_family,
)
from ._buffer_places import (
    Place,
    find_overlaps,
    gone,
    hang_odd,
    memory_of,
    refuse_overlaps,
    refuse_wide,
    rule_of,
    same_kind,
    signature_of,
    unlike_values,
)
from ._buffer_report import (
    Report,
    changed_names,
    make_report,
    pack_report,
    unlike_members,
    unpack_report,
)
from ._buffer_rows import PassRows
from ._modules import ModelWatch, are_same, hanging_in

ADDED_RULES = ("mean", "sum")
_data_ptr, _numel = torch.Tensor.data_ptr, torch.Tensor.numel


class BufferBook:
    """Keeps the buffers of a step right on one worker; see the top of this file.

    Args:
        models: Named models.
        rules: The plan's (pattern, rule) pairs; the first pattern that matches a buffer's name wins.
    """

    def __init__(self, models: Mapping[str, torch.nn.Module], rules: Sequence[tuple[str, str]]) -> None:
        self._rules = rules
        self._families: list[Family] = []
        self._per_node_families: list[Family] = []
        self._watch = ModelWatch(models)
        self._dicts: list[dict[str, torch.Tensor | None]] = []
        self._full_dicts: list[dict[str, torch.Tensor | None]] = []
        self._empty_dicts: list[dict[str, torch.Tensor | None]] = []
        self._signature: list[object] = [None]  # unlike that of models without buffers
        self._tensors: list[torch.Tensor | None] = []
        """What hangs where at the start of the round: a pass may change it in a way that needs a closer look."""
        self._present: list[torch.Tensor] = []
        """Those of `_tensors` that are there; with them their addresses and sizes."""
        self._pointers: list[int] = []
        self._sizes: list[int] = []
        self._places: dict[int, dict[str, Place | None]] = {}
        """Every name of every module at the walk, by the identity of the module's dictionary."""
        self._tracked: set[int] = set()
        """Identities of the places by which buffers are followed: of several places of one tensor the first."""
        self._overlaps: list[tuple[str, str]] = []
        """Names of buffers that share a part of their memory."""
        self._added: list[torch.Tensor] = []
        self._rows: PassRows | None = None
        self._passes = 0
        self._odd: dict[str, tuple[torch.Tensor, bool]] = {}
        self.per_node: dict[str, dict[int, torch.Tensor]] = {}
        """Values of `per_node` buffers by name and virtual node, of all virtual nodes: any worker may take one over."""
        self._fresh_per_node: dict[str, dict[int, torch.Tensor]] = {}
        """Those that this worker's passes left in the present round."""

    def begin_round(self) -> None:
        """Keep the values that every pass of the round starts from; walk the models if their buffers are others."""
        self._odd = {}
        self._fresh_per_node = {}
        self._passes = 0
        if self._is_known():
            for family in self._families:
                family.begin_round(keep=self._rows is None)
            if self._rows is not None:
                self._rows.begin_round()
            return
        self._walk()
        self._signature = self._present_signature()
        self._tensors = hanging_in(self._dicts)
        self._present = [tensor for tensor in self._tensors if tensor is not None]
        self._pointers, self._sizes = list(map(_data_ptr, self._present)), list(map(_numel, self._present))
        self._full_dicts = [buffers for buffers in self._dicts if buffers]
        self._empty_dicts = [buffers for buffers in self._dicts if not buffers]

    def _is_known(self) -> bool:
        """Whether modules and buffers are those of the last walk, buffers with the same memory."""
        return self._watch.has_same_modules() and self._present_signature() == self._signature

    def _present_signature(self) -> list[object]:
        return [
            tensor if tensor is None else signature_of(tensor)
            for buffers in self._dicts
            if buffers
            for tensor in buffers.values()
        ]

    def _walk(self) -> None:
        families: dict[tuple[str, torch.dtype, torch.device], Family] = {}
        self._watch.walk()
        self._dicts = [module._buffers for _, module in self._watch.modules]
        self._places = {}
        seen: set[object] = set()
        for path, module in self._watch.modules:
            places = self._places[id(module._buffers)] = {}
            # In an order that does not depend on what was bound when:
            for key, tensor in sorted(module._buffers.items()):
                places[key] = place = None if tensor is None else Place.of(module._buffers, key, tensor)
                if tensor is None or place is None or {id(tensor), memory_of(tensor)} & seen:
                    continue
                seen |= {id(tensor), memory_of(tensor)} - {None}
                name = ".".join(filter(None, (path, key)))
                refuse_wide(name, tensor)
                family_key = (rule_of(self._rules, name, module, tensor), tensor.dtype, tensor.device)
                family = families.setdefault(family_key, Family(rule=family_key[0]))
                family.members.append(
                    Tracked(
                        name,
                        place,
                        tensor,
                        tensor.detach().reshape(-1),
                        tensor.is_contiguous(),
                    )
                )
        self._families = list(families.values())
        members = [m for f in self._families for m in f.members]
        self._overlaps = find_overlaps([(m.name, m.tensor) for m in members])
        self._tracked = {id(m.place) for m in members}
        self._per_node_families = [f for f in self._families if f.rule == "per_node"]
        for family in self._families:
            family.close()
        self._rows = PassRows(self._families) if PassRows.can_hold(self._families) else None
        self._added = [
            torch.empty(f.start.numel(), dtype=torch.float64, device="meta")
            for f in self._families
            if f.rule in ADDED_RULES
        ]

    def added(self) -> list[torch.Tensor]:
        """Float64 tensors shaped like the sums that `close_pass` returns: the layout of their reduction."""
        return self._added

    def open_pass(self, virtual_node: int) -> None:
        """Put the virtual node's own values into `per_node` buffers."""
        for family in self._per_node_families:
            for member in family.members:
                own = self.per_node.get(member.name, {}).get(virtual_node)
                if own is not None:
                    member.tensor.copy_(own)

    def close_pass(self, virtual_node: int, weight: float) -> list[tuple[int, list[torch.Tensor | None]]]:
        """Take what the pass left in the buffers, and put the starting values back.

        Args:
            virtual_node: The pass.
            weight: Its weight in means: its examples, in any unit that is the same for the whole round.

        Returns:
            What this pass and those before it add to the sums of the families with rule mean or sum, float64, with
            their virtual nodes; nothing yet where that can wait for `work_off`.
        """
        self._passes += 1
        is_regular = self._is_regular()
        if is_regular and not self._families:
            return []
        if is_regular and self._rows is not None and self._rows.has_room:
            self._rows.take(virtual_node, weight)
            return []
        return [*self.work_off(), (virtual_node, self._take_pass(virtual_node, weight, is_regular))]

    def work_off(self) -> list[tuple[int, list[torch.Tensor | None]]]:
        """What `close_pass` has put off."""
        return [] if self._rows is None else self._rows.work_off()

    def add_up(self, trees: Sequence[Tree], passes: int) -> list[list[Bits]] | None:
        """As `work_off`, with the sums of subtrees added up; None where they cannot be, and `work_off` is to be used.

        Args:
            trees: Subtrees, which have all of this worker's passes.
            passes: How many these are.
        """
        if self._rows is None or not self._rows.can_add_up(passes):
            return None
        return self._rows.add_up(trees)

    def _take_pass(self, virtual_node: int, weight: float, is_regular: bool) -> list[torch.Tensor | None]:
        with torch.no_grad():
            if not is_regular:
                self._collect_odd()
            leaves: list[torch.Tensor | None] = []
            for family in self._families:
                self._take_family(family, virtual_node, weight, leaves, is_regular=is_regular)
                if not is_regular:
                    # Whatever the value: the next passes and the other workers have this tensor.
                    for member in family.members:
                        member.place.hang_back()
                if not is_regular or family.changed is not None:
                    family.put_back()
            return leaves

    def _take_family(
        self,
        family: Family,
        virtual_node: int,
        weight: float,
        leaves: list[torch.Tensor | None],
        *,
        is_regular: bool,
    ) -> None:
        if family.rule == "first" and family.changed is not None and virtual_node > family.first_node:
            return  # a lower pass had the value; the start is put back in any case
        flat = family.flat(is_regular=is_regular)
        family.compare(flat, virtual_node)
        if family.rule == "mean":
            wide = flat.double()
            leaves.append(wide if weight == 1 else wide.mul_(weight))
        elif family.rule == "sum":
            leaves.append(flat.double().sub_(family.start))
        elif family.rule in ("max", "min"):
            fold = torch.maximum if family.rule == "max" else torch.minimum
            if flat.is_floating_point():
                flat = flat + 0.0  # of +0 and -0, which are equal, a fold would keep one by its place
            family.extreme = flat if family.extreme is None else fold(family.extreme, flat)
        elif family.rule == "per_node":
            for member, value in zip(family.members, family.split(flat), strict=True):
                self._fresh_per_node.setdefault(member.name, {})[virtual_node] = value.clone()

    def _is_regular(self) -> bool:
        """Whether the modules have the buffers that they had at the start of the round, the same tensors in the same memory."""
        return (
            not any(self._empty_dicts)
            and are_same(hanging_in(self._full_dicts), self._tensors)
            and list(map(_data_ptr, self._present)) == self._pointers
            and list(map(_numel, self._present)) == self._sizes
        )

    def _collect_odd(self) -> None:
        """Find buffers that appeared in the pass or changed their shape; they must be alike in all passes.

        Raises:
            NumericsError: a buffer is gone.
        """
        for path, module in self._watch.modules:
            buffers = module._buffers if id(module._buffers) in self._places else {}  # else for the next walk
            places = self._places.get(id(module._buffers), {})
            for key in sorted({*places, *buffers}):
                place, tensor = places.get(key), buffers.get(key)
                name = ".".join(filter(None, (path, key)))
                if place is not None and tensor is None:
                    raise gone(name)
                if tensor is None or (place is not None and self._is_followed(place, tensor)):
                    continue
                if name not in self._odd:
                    self._odd[name] = tensor.detach().clone(), True
                first, alike = self._odd[name]
                self._odd[name] = (
                    first,
                    alike and same_kind(first, tensor) and torch.equal(bits_of(first), bits_of(tensor)),
                )
                if place is not None:
                    place.hang_back()
                elif key in places:
                    buffers[key] = None
                else:
                    del buffers[key]

    def _is_followed(self, place: Place, tensor: torch.Tensor) -> bool:
        """Whether what hangs there is what hung there, or the next value of a buffer that is followed by this name."""
        return place.is_untouched() or (id(place) in self._tracked and same_kind(tensor, place.memory))

    @torch.no_grad()
    def undo(self) -> None:
        """Give every buffer the value that it had at the start of the round."""
        for family in self._families:
            family.put_back()

    @property
    def has_families(self) -> bool:
        """Whether the models have buffers at the start of the round; the same on every worker."""
        return bool(self._families)

    @property
    def has_odd(self) -> bool:
        """Whether a buffer appeared or changed its shape in a pass on this worker."""
        return bool(self._odd)

    def swap(
        self,
        group: Group,
        mapping: NodeMapping,
        lowest: int,
        step: int,
        reports: list[Report] | None = None,
    ) -> Settlement:
        """Learn from all workers what the passes of the round did; nothing is changed yet.

        Args:
            group: The workers; all of them call this at the end of a round, after everything else of it.
            mapping: Who ran what.
            lowest: Rank of the worker that holds the lowest virtual node with examples.
            step: Index of the step, for messages.
            reports: Each worker's `pack_report`, unpacked; None to ask for more than that holds.

        Raises:
            NumericsError: passes changed a buffer without a rule in unlike ways, or one that shares memory with another.
        """
        if mapping.world_size == 1 and not self._odd:
            return self._settle_alone(step)
        per_node = self._swap_per_node(group, step)
        what = f"the buffers of step {step}"
        if reports is None:
            reports = [
                json.loads(r) for r in group.gather_bytes(json.dumps(self._report()).encode(), what=what)
            ]
        busy = [r for r in reports if r["ran"]]
        if self._overlaps:
            refuse_overlaps(self._overlaps, changed_names(self._families, busy), step)
        odd = sorted({name for r in busy for name in r["odd"]})
        refused = [
            n for n in odd if len({r["odd"].get(n) for r in busy}) > 1 or busy[0]["odd"].get(n) is None
        ]
        unlike = [unlike_members(self._families, i, busy) for i in range(len(self._families))]
        changed = [any(r["changed"][i] for r in busy) for i in range(len(self._families))]
        idle = len(busy) < len(reports) and (any(changed) or bool(odd))
        parted = any(
            any(u) and f.rule not in (*ADDED_RULES, "alike")
            for f, u in zip(self._families, unlike, strict=True)
        )
        for family, members in zip(self._families, unlike, strict=True):
            if family.rule == "alike":
                refused += [m.name for m, is_unlike in zip(family.members, members, strict=True) if is_unlike]
        if refused:
            raise unlike_values(sorted(set(refused)), step)
        if mapping.world_size > 1 and (idle or parted):
            sent = safetensors.torch.save(self._own_values(group.rank == lowest))
            values = [safetensors.torch.load(v) for v in group.gather_bytes(sent, what=what)]
            lowest_values = values[lowest]
        else:
            lowest_values = self._own_values(True)
            values = [lowest_values]
        return Settlement(
            unlike=unlike,
            first=[
                lowest_values[f"first.{i}"] if is_changed else None for i, is_changed in enumerate(changed)
            ],
            extremes=[
                [v[f"extreme.{i}"] for v in values if f"extreme.{i}" in v] for i in range(len(changed))
            ],
            odd={n: lowest_values[f"odd.{n}"] for n in odd},
            per_node=per_node,
        )

    def _swap_per_node(self, group: Group, step: int) -> dict[str, dict[int, torch.Tensor]]:
        """What every virtual node's pass left in `per_node` buffers."""
        if not any(f.rule == "per_node" for f in self._families):
            return {}
        own = {
            f"{v}.{name}": value.cpu()
            for name, values in self._fresh_per_node.items()
            for v, value in values.items()
        }
        merged: dict[str, dict[int, torch.Tensor]] = {}
        what = f"the buffers of single virtual nodes in step {step}"
        for part in group.gather_bytes(safetensors.torch.save(own), what=what):
            for key, value in safetensors.torch.load(part).items():
                v, _, name = key.partition(".")
                merged.setdefault(name, {})[int(v)] = value
        return merged

    @torch.no_grad()
    def settle(
        self, settlement: Settlement, sums: Sequence[torch.Tensor | Bits | None], weight: float
    ) -> None:
        """Give every buffer its value after the round, the same on every worker: local.

        Args:
            settlement: From `swap`.
            sums: `close_pass`'s sums over all virtual nodes, in tree order.
            weight: Sum of the weights of the round's passes.
        """
        totals = iter(sums)
        for family, unlike, first, extremes in zip(
            self._families, settlement.unlike, settlement.first, settlement.extremes, strict=True
        ):
            total = next(totals) if family.rule in ADDED_RULES else None
            if first is not None:
                settle_family(family, unlike, first, total, weight, extremes)
        hang_odd(self._watch.modules, settlement.odd)
        for name, values in settlement.per_node.items():
            self.per_node.setdefault(name, {}).update(values)

    def _settle_alone(self, step: int) -> Settlement:
        """As `swap` where this worker ran every pass: nothing to send, no fingerprints."""
        if self._overlaps:
            refuse_overlaps(self._overlaps, changed_names(self._families, [self._report()]), step)
        refused: list[str] = []
        all_unlike: list[list[bool]] = []
        for family in self._families:
            unlike = [True] * len(family.members)
            if not family.all_unlike:
                unlike = family.any_in_members(family.unlike)
            all_unlike.append(unlike)
            if family.rule == "alike" and family.changed is not None:
                refused += [m.name for m, is_unlike in zip(family.members, unlike, strict=True) if is_unlike]
        if refused:
            raise unlike_values(sorted(refused), step)
        return Settlement(
            unlike=all_unlike,
            first=[
                None if f.changed is None else f.first if f.first_bits is None else f.first_bits
                for f in self._families
            ],
            extremes=[[] if f.extreme is None else [f.extreme] for f in self._families],
            odd={},
            per_node=self._fresh_per_node,
        )

    def pack_report(self) -> bytes:
        """What passes did to each buffer here, but for buffers that appeared; its length follows from the models alone."""
        return pack_report(self._report())

    def unpack_report(self, packed: bytes) -> Report:
        """The report of another worker."""
        return unpack_report(packed, self._families)

    def _report(self) -> Report:
        return make_report(self._families, self._odd, ran=self._passes > 0)

    def _own_values(self, is_lowest: bool) -> dict[str, torch.Tensor]:
        """This worker's values that others may need; no two share memory, which safetensors would refuse."""
        values = {
            f"extreme.{i}": f.extreme.cpu().clone()
            for i, f in enumerate(self._families)
            if f.extreme is not None
        }
        if is_lowest:
            values |= {
                f"first.{i}": (f.start if f.first is None else f.first).cpu()
                for i, f in enumerate(self._families)
            }
            values |= {
                f"odd.{name}": tensor.detach().cpu().contiguous().clone()
                for name, (tensor, _) in self._odd.items()
            }
        return values
