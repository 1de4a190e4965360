"""What one worker's passes did to the buffers of its models, and as bytes for the others."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ._buffer_family import PRINT_BYTES, Family, fingerprint_of

Report = dict[str, Any]
"""`ran`: whether there was a pass; by family `changed` and `families`, its members' (fingerprint of the value after the first
pass, whether later ones differ): one that no pass changed has no fingerprint, or zeros; `odd`: fingerprints by name."""


def make_report(
    families: Sequence[Family], odd: Mapping[str, tuple[torch.Tensor, bool]], *, ran: bool
) -> Report:
    """What passes did to each buffer here: its value after the first, and whether later ones differ.

    Args:
        families: Buffers that were there at the start of the round.
        odd: Those that appeared: the first value, and whether it was the same in all passes.
        ran: Whether this worker had a pass.
    """
    members, changed = [], []
    for f in families:
        altered = f.any_in_members(f.changed)
        changed.append(any(altered))
        members.append(list(zip(f.prints_of_first(altered), f.any_in_members(f.unlike), strict=True)))
    return {
        "ran": ran,
        "changed": changed,
        "families": members,
        "odd": {n: fingerprint_of(t) if alike else None for n, (t, alike) in odd.items()},
    }


def pack_report(report: Report) -> bytes:
    """All of a report but `odd`; its length follows from the models alone."""
    parts = [bytes([report["ran"]])]
    for changed, members in zip(report["changed"], report["families"], strict=True):
        parts.append(bytes([changed]))
        parts += [
            bytes.fromhex(text.rjust(2 * PRINT_BYTES, "0")) + bytes([unlike]) for text, unlike in members
        ]
    return b"".join(parts)


def unpack_report(packed: bytes, families: Sequence[Family]) -> Report:
    """The report that `pack_report` packed on a worker with the same models."""
    rest = memoryview(packed)
    report: Report = {"ran": bool(rest[0]), "changed": [], "families": [], "odd": {}}
    at = 1
    for family in families:
        report["changed"].append(bool(rest[at]))
        at += 1
        entries = []
        for _ in family.members:
            entries.append((rest[at : at + PRINT_BYTES].hex(), bool(rest[at + PRINT_BYTES])))
            at += PRINT_BYTES + 1
        report["families"].append(entries)
    return report


def unlike_members(families: Sequence[Family], index: int, reports: Sequence[Report]) -> list[bool]:
    """For each member of one of the families, whether two passes on any workers left different values in it."""
    entries = [r["families"][index] for r in reports]
    return [
        len({e[m][0] for e in entries}) > 1 or any(e[m][1] for e in entries)
        for m in range(len(families[index].members))
    ]


def changed_names(families: Sequence[Family], reports: Sequence[Report]) -> set[str]:
    """Names of the buffers that a pass changed on some worker."""
    return {
        member.name
        for report in reports
        for family, entries in zip(families, report["families"], strict=True)
        for member, (fingerprint, _) in zip(family.members, entries, strict=True)
        if fingerprint.strip("0")
    }
