"""What `holdtrue profile` prints."""

from rich import box
from rich.console import Console
from rich.table import Table

from holdtrue.profile import DeviceProfile, Profile
from holdtrue.units import format_bytes

from ._plan_view import show_text


def show_profile(profile: Profile) -> None:
    """Print a profile to stdout: one table for each kind of device."""
    console = Console(highlight=False, emoji=False)
    for device in profile.devices:
        console.print(
            f"[bold]{device.kind}[/bold] · {show_text(device.name) or 'unnamed'} · torch {show_text(device.torch_version)} · "
            f"{device.threads} thread{'s' if device.threads != 1 else ''} · {device.date}"
        )
        console.print(_table(device))
        console.print(_describe_step(device, profile.gradient_bytes))


def _table(device: DeviceProfile) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("pass", "ms", "spread", "examples/s", "peak memory"):
        table.add_column(title, justify="right")
    for point in device.points:
        table.add_row(
            str(point.batch_size),
            f"{1e3 * point.seconds:.3f}",
            f"{100 * point.spread:.0f} %",
            f"{point.batch_size / point.seconds:.5g}",
            "not measured" if point.peak_bytes is None else format_bytes(point.peak_bytes),
        )
    return table


def _describe_step(device: DeviceProfile, gradient_bytes: int) -> str:
    if device.exchange_bytes_per_s is None:
        exchange = "exchange not measured (it takes two devices)"
    else:
        exchange = (
            f"exchange {1e3 * device.exchange_latency_s:.3f} ms and {format_bytes(device.exchange_bytes_per_s)}/s "
            f"(gradients {format_bytes(gradient_bytes)})"
        )
    return f"a step besides its passes {1e3 * device.fixed_s:.3f} ms · {exchange}"
