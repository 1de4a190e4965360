"""`holdtrue plan`: what to expect of some devices, without any of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdtrue.errors import UsageError
from holdtrue.units import cut_text

from . import _options as options
from ._commands import help_of
from ._seats import alias_of

if TYPE_CHECKING:
    from holdtrue.solve import DeviceGroup

_JOB = "Job"
_DEVICES = "Devices"
_HELP = "Needs no device: only measured passes. See docs/guide/mixed-devices.md."
_PROFILE = "Profile"


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("plan", help=help_of("plan", _HELP))(plan)


def plan(
    profile: Annotated[
        list[Path],
        typer.Option(
            "--profile",
            metavar="FILE",
            help="Profile that `holdtrue profile` wrote; once for each file, where kinds have their own.",
            rich_help_panel=_PROFILE,
        ),
    ],
    devices: Annotated[
        str,
        typer.Option(
            "--devices",
            metavar="KIND:N,...",
            help="Devices to plan for, such as v100:2,p100:8.",
            rich_help_panel=_DEVICES,
        ),
    ],
    global_batch_size: Annotated[
        int,
        typer.Option("--global-batch-size", metavar="B", help="Examples in a step.", rich_help_panel=_JOB),
    ],
    virtual_nodes: Annotated[
        str,
        typer.Option(
            "--virtual-nodes",
            metavar="V",
            help="Virtual nodes; auto chooses among those whose passes were measured.",
            rich_help_panel=_JOB,
        ),
    ] = "auto",
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Plan for numerics fast: virtual nodes may be fused into one pass.",
            rich_help_panel=_JOB,
        ),
    ] = False,
    memory: Annotated[
        list[str] | None,
        typer.Option(
            "--memory",
            metavar="KIND=SIZE,...",
            help="Memory a worker may use, such as v100=16GiB. [dim]default: the profile's[/dim]",
            rich_help_panel=_DEVICES,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Refuse a profile of any other model (name or hash).",
            rich_help_panel=_PROFILE,
        ),
    ] = None,
    torch_version: Annotated[
        str | None,
        typer.Option(
            "--torch",
            metavar="VERSION",
            help="Refuse a profile measured with any other torch.",
            rich_help_panel=_PROFILE,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a screen.")
    ] = False,
) -> None:
    """`holdtrue plan`; `_HELP` says what it does."""
    # numpy comes with the solver; the other commands need not wait for it.
    from holdtrue.profile import check_profile, merge_profiles, read_profile
    from holdtrue.solve import check_limits, parse_devices, parse_memory, recommend

    from ._plan_view import describe_json, show_recommendation

    merged = merge_profiles([read_profile(path) for path in profile])
    alias = alias_of("cuda", merged) if "cuda" in {group.kind for group in parse_devices(devices)} else None
    groups = _name_kinds(parse_devices(devices), alias)
    limits = {
        alias if alias and kind == "cuda" else kind: size for kind, size in parse_memory(memory or []).items()
    }
    check_profile(merged, kinds=[group.kind for group in groups], model=model, torch_version=torch_version)
    strangers = sorted(set(limits) - {group.kind for group in groups})
    if strangers:
        raise UsageError(
            f"--memory names {', '.join(strangers)}, and --devices does not; a limit is for a kind that is "
            f"used. "
            f"Correct the name."
        )
    check_limits(merged, limits)
    found = recommend(
        merged,
        groups,
        global_batch_size=global_batch_size,
        virtual_nodes=_parse_virtual_nodes(virtual_nodes),
        numerics="fast" if fast else "portable" if merged.numerics == "portable" else "exact",
        memory_bytes=limits,
    )
    if as_json:
        typer.echo(json.dumps(describe_json(found, merged), indent=2))
    else:
        show_recommendation(found, merged, limits)


def _name_kinds(groups: "tuple[DeviceGroup, ...]", alias: str | None) -> "tuple[DeviceGroup, ...]":
    """The groups with `cuda` as the profile names it."""
    if alias is None:
        return groups
    if alias in {group.kind for group in groups}:
        raise UsageError(
            f"--devices names cuda and {alias}, and in this profile they are the same; each kind stands once with its count. "
            f"Add the counts up."
        )
    return tuple(replace(group, kind=alias) if group.kind == "cuda" else group for group in groups)


def _parse_virtual_nodes(text: str) -> int | None:
    """V, or None for `auto`."""
    if text == "auto":
        return None
    count = options.parse_count(text)
    if count is None:
        raise UsageError(
            f"--virtual-nodes is {cut_text(text, 40)!r}; it is a whole number of 1 or more, or auto, and below a billion. "
            f"Pass one of these."
        )
    return count
