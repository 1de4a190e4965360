"""Options that several commands share, and which of their values the launcher needs itself."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

import typer

from holdtrue.errors import UsageError
from holdtrue.launch import DEVICES
from holdtrue.mapping import parse_mapping
from holdtrue.plan import NUMERICS_LEVELS
from holdtrue.units import parse_ids
from holdtrue.wire import CONFIG_KEYS, OPTION_KEYS, SETTING_VARIABLES, Setting, parse_setting, read_config

NON_FINITE = ("stop", "skip", "allow")

_PLAN = "Plan (overrides the script)"
_PLACE = "Devices"


def read_whole_number(text: str | int) -> int:
    """The number that `text` writes, for options."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def parse_count(text: str) -> int | None:
    """The number from 1 to 999,999,999 that `text` writes in ASCII digits; None if it writes none. Pure.

    >>> parse_count("0" * 5000 + "12"), parse_count("0"), parse_count("1e3"), parse_count("9" * 10)
    (12, None, None, None)
    """
    digits = text.lstrip("0")  # before it is a number: Python reads no more than 4,300 digits
    return int(digits) if re.fullmatch(r"[1-9][0-9]{0,8}", digits) else None


def read_number(text: str | float) -> float:
    """The number that `text` writes, for options."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRange:
    """How many workers a job may have: what `--workers` says."""

    least: int
    """The job goes on while it has so many."""
    start: int | None
    """Workers to start with; None for what there is, up to `most`."""
    most: int | None = None
    """Devices that come by are taken up to so many."""

    def choose_start(self, devices: int) -> int:
        """Workers to start with where there are so many devices. Pure.

        >>> [WorkerRange(least=1, start=None, most=4).choose_start(devices) for devices in (0, 2, 8)]
        [1, 2, 4]
        """
        return self.start if self.start is not None else max(self.least, min(self.most or 1, devices))

    def __str__(self) -> str:
        return str(self.start) if self.start is not None else f"{self.least}:{self.most}"


ONE_WORKER = WorkerRange(least=1, start=1)


def read_address(text: str | None) -> tuple[str, int]:
    """Host and port of `--listen`; port 0 is any that is free.

    Raises:
        UsageError: the port is no number.

    >>> read_address(None), read_address("10.1.0.1"), read_address("10.1.0.1:4100"), read_address("[fd00::1]:7")
    (('127.0.0.1', 0), ('10.1.0.1', 0), ('10.1.0.1', 4100), ('fd00::1', 7))
    """
    if text is None:
        return "127.0.0.1", 0
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        return text.strip("[]"), 0
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise UsageError(
            f"--listen is {text!r}; it is HOST or HOST:PORT with a port below 65536. Give such an address."
        )
    return host.strip("[]"), int(port)


LEAST_TOKEN_CHARACTERS = 16
"""What the controller takes for a token."""


def read_token_file(file: Path, *, way_out: str) -> str:
    """The token in a file: one word, so that an editor's line end does no harm.

    Args:
        file: The file.
        way_out: What to do where it holds none: a sentence.

    Raises:
        UsageError: it cannot be read, or holds no token. The message does not show what it holds.
    """
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"the token file {file} cannot be read ({reason}). {way_out}") from None
    if not token.isascii() or not token.isprintable() or len(token.split()) != 1:
        raise UsageError(f"the token file {file} holds no token; it has one word. {way_out}")
    if len(token) < LEAST_TOKEN_CHARACTERS:
        raise UsageError(
            f"the token in {file} has {len(token)} characters; a token has {LEAST_TOKEN_CHARACTERS} or more, "
            f"since a shorter one can be guessed. {way_out}"
        )
    return token


def check_not_negative(option: str, value: int) -> int:
    """`value`, if it is 0 or more.

    Raises:
        UsageError: it is not.
    """
    if value < 0:
        raise UsageError(f"{option} is {value}; it must be 0 or more. Give such a number.")
    return value


def read_worker_range(text: str) -> WorkerRange:
    """What `--workers N` or `--workers MIN:MAX` says.

    >>> read_worker_range("3")
    WorkerRange(least=1, start=3, most=None)
    >>> read_worker_range("1:4")
    WorkerRange(least=1, start=None, most=4)
    """
    if ":" not in str(text):
        start = read_whole_number(text)
        if start < 1:
            raise typer.BadParameter(f"workers is {start}; a job has at least 1")
        return WorkerRange(least=1, start=start)
    try:
        least, most = map(int, text.split(":"))
    except ValueError:
        least, most = 0, 0
    if not 1 <= least <= most:
        raise typer.BadParameter(f"{text!r} is not MIN:MAX, with 1 or more and MIN at most MAX")
    return WorkerRange(least=least, start=None, most=most)


Script = Annotated[
    str,
    typer.Argument(metavar="train.py", help="The script. All that follows is for it.", show_default=False),
]
OptionalScript = Annotated[
    str | None,
    typer.Argument(metavar="[train.py]", help="A script. All that follows is for it.", show_default=False),
]
Arguments = Annotated[
    list[str] | None, typer.Argument(metavar="ARGS", help="Arguments of the script.", show_default=False)
]


Workers = Annotated[
    WorkerRange | None,
    typer.Option(
        "--workers",
        parser=read_worker_range,
        metavar="N|MIN:MAX",
        help="Processes, each driving one device; MIN:MAX takes what there is. "
        "[dim]default: 1, or what other options say[/dim]",
        rich_help_panel="Devices",
    ),
]
Restart = Annotated[
    int,
    typer.Option(
        "--restart",
        parser=read_whole_number,
        metavar="N",
        help="Workers that are replaced after they died, in all.",
        rich_help_panel="Devices",
    ),
]
Listen = Annotated[
    str | None,
    typer.Option(
        "--listen",
        metavar="HOST[:PORT]",
        help="Address on which the job listens for `holdtrue worker --join` of other machines; in a private "
        "network only. [dim]default: this machine alone[/dim]",
        rich_help_panel="Devices",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File with the token that other machines join with. [dim]default: a new token[/dim]",
        rich_help_panel="Devices",
    ),
]

AUTO = "auto"
_OPTION_NAMES = {name: key for key, name in OPTION_KEYS.items()}


def words_of(settings: Mapping[str, Setting]) -> list[str]:
    """Settings as options of a command. Pure.

    >>> words_of({"timeout_s": 9.0, "rebalance": False, "virtual_nodes": 8})
    ['--timeout', '9.0', '--no-rebalance', '--virtual-nodes', '8']
    """
    words: list[str] = []
    for name, value in settings.items():
        if name == "rebalance":
            words.append("--rebalance" if value else "--no-rebalance")
        else:
            words += [f"--{_OPTION_NAMES.get(name, name).replace('_', '-')}", str(value)]
    return words


def read_virtual_nodes(text: str | None) -> int | None:
    """V, for the option of `holdtrue run`; None where it is `auto`, or not given."""
    return None if text in (None, AUTO) else read_whole_number(text or "")


VirtualNodesOrAuto = Annotated[
    str | None,
    typer.Option(
        "--virtual-nodes",
        metavar="V",
        help="Slices of every global batch; auto takes the solver's number, with --profile.",
        rich_help_panel=_PLAN,
    ),
]
DeviceList = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="KIND:N,...",
        help="Devices, one worker each, such as cpu:4 or cpu:4,cuda:1.",
        rich_help_panel=_PLACE,
    ),
]
Profiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="Measured passes: the mapping is then the solver's. See `holdtrue profile`.",
        rich_help_panel=_PLACE,
    ),
]
Memory = Annotated[
    list[str] | None,
    typer.Option(
        "--memory",
        metavar="KIND=SIZE,...",
        help="Memory a worker may use, such as cpu=2GiB; cpu:1=2GiB is that of one device, from 0. "
        "[dim]default: the profile's[/dim]",
        rich_help_panel=_PLACE,
    ),
]
Rebalance = Annotated[
    bool | None,
    typer.Option(
        "--rebalance/--no-rebalance",
        metavar="",
        help="Move virtual nodes to the faster devices while the job runs, as measured. "
        "[dim]default: on with --devices or --profile, unless --mapping is given[/dim]",
        rich_help_panel=_PLACE,
        show_default=False,
    ),
]
VirtualNodes = Annotated[
    int | None,
    typer.Option(
        "--virtual-nodes",
        parser=read_whole_number,
        metavar="V",
        help="Slices of every global batch.",
        rich_help_panel=_PLAN,
    ),
]
GlobalBatchSize = Annotated[
    int | None,
    typer.Option(
        "--global-batch-size",
        parser=read_whole_number,
        metavar="B",
        help="Examples in a step.",
        rich_help_panel=_PLAN,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        parser=read_whole_number,
        metavar="S",
        help="Seed of every random stream of the run.",
        rich_help_panel=_PLAN,
    ),
]
Numerics = Annotated[
    str | None,
    typer.Option(
        "--numerics",
        metavar="|".join(NUMERICS_LEVELS),
        help="What is promised about bits; see docs/guarantees.md.",
        rich_help_panel=_PLAN,
    ),
]
NonFinite = Annotated[
    str | None,
    typer.Option(
        "--non-finite",
        metavar="|".join(NON_FINITE),
        help="What to do at a loss that is not finite: stop the run, skip the update, or allow it. "
        "[dim]default: stop[/dim]",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="|".join(DEVICES),
        help="Devices of the workers; auto is cuda where there is one. [dim]default: auto[/dim]",
        rich_help_panel=_PLACE,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        parser=read_whole_number,
        metavar="T",
        help="Intra-op threads of each worker; bits depend on it. [dim]default: 1[/dim]",
        rich_help_panel=_PLACE,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        parser=read_number,
        metavar="SECONDS",
        help="Bound of every wait between workers. [dim]default: 300[/dim]",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help=f"TOML file of settings, one `key = value` a line: {', '.join(CONFIG_KEYS)}. Environment variables "
        "(HOLDTRUE_SEED, ...) are stronger, options strongest.",
    ),
]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Settings that the command line may give to any job; None where it does not.

    Raises:
        UsageError: a value is none of the choices, or is out of range.
    """

    virtual_nodes: int | None = None
    global_batch_size: int | None = None
    seed: int | None = None
    numerics: str | None = None
    device: str | None = None
    threads: int | None = None
    timeout: float | None = None
    non_finite: str | None = None
    config: Path | None = None

    def __post_init__(self) -> None:
        _check_choice("device", self.device, DEVICES)
        _check_choice("numerics", self.numerics, NUMERICS_LEVELS)
        _check_choice("non-finite", self.non_finite, NON_FINITE)
        for option in ("virtual_nodes", "global_batch_size", "threads", "timeout"):
            value = getattr(self, option)
            if value is not None and not value > 0:
                raise UsageError(
                    f"--{option.replace('_', '-')} is {value}; it must be above 0. Give such a number."
                )

    def settings(self) -> dict[str, Setting]:
        """The given values by the names of their settings."""
        values: dict[str, Setting | Path | None] = {
            "virtual_nodes": self.virtual_nodes,
            "global_batch_size": self.global_batch_size,
            "seed": self.seed,
            "numerics": self.numerics,
            "device": self.device,
            "threads": self.threads,
            "timeout_s": self.timeout,
            "non_finite": self.non_finite,
            "config": self.config,
        }
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in values.items()
            if value is not None
        }


def _check_choice(option: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise UsageError(f"--{option} is {value!r}; the choices are {', '.join(choices)}. Give one of them.")


def settings_in_force(cli: Mapping[str, Setting], env: Mapping[str, str]) -> dict[str, Setting]:
    """Settings that command line, environment and config file give, the strongest of each.

    What the script says is not known here, nor needed: it has no say in devices, threads and folders.

    Raises:
        UsageError: a variable or the config file cannot be read, or the time-out is not above 0.
    """
    environment = {
        name: parse_setting(name, env[variable])
        for name, variable in SETTING_VARIABLES.items()
        if env.get(variable)
    }
    config = cli.get("config", environment.get("config"))
    force = {**(read_config(Path(str(config))) if config else {}), **environment, **cli}
    # The launcher's own processes wait by it, before a worker reads it.
    if not float(force.get("timeout_s", 1.0)) > 0:
        raise UsageError(
            f"timeout_s is {force['timeout_s']}; it is a number of seconds above 0. Give such a number."
        )
    return force


def choose_workers(
    workers: WorkerRange | None, mapping: str | None, virtual_nodes: int | None
) -> WorkerRange:
    """Numbers of workers, from `--workers` and `--mapping`, which must agree. Pure.

    Raises:
        MappingError: the text is no mapping.
        UsageError: the mapping is for another number of workers.

    >>> choose_workers(None, "0-3/4,5", None)
    WorkerRange(least=1, start=2, most=None)
    """
    if mapping is None:
        return ONE_WORKER if workers is None else workers
    parsed = parse_mapping(mapping, virtual_nodes or _least_virtual_nodes(mapping))
    if workers is not None and workers.start != parsed.world_size:
        raise UsageError(
            f"--workers is {workers} and --mapping {mapping!r} is for {parsed.world_size} worker(s); "
            f"a mapping has one part for each worker. Leave out --workers, or write as many parts."
        )
    return WorkerRange(least=1, start=parsed.world_size)


def _least_virtual_nodes(mapping: str) -> int:
    try:
        return max((i + 1 for part in mapping.split("/") for i in parse_ids(part)), default=1)
    except ValueError:
        return 1  # parse_mapping says what is wrong
