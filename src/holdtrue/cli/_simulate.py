"""`holdtrue simulate`: what policies would do with a trace of jobs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdtrue.errors import UsageError
from holdtrue.units import reason_of

from ._commands import help_of
from ._places import check_place, unwritable, write_text
from ._policies import POLICIES
from ._say import say
from ._simulate_view import show_progress, show_table

if TYPE_CHECKING:  # numpy loads with the cluster package; other commands need not wait for it
    from holdtrue.cluster import Cluster, Job, Outcome, Policy, Summary

_HELP = (
    "Reads the VirtualFlow paper's JSON traces, Gavel's traces, Philly's job list, and our own CSV and JSON "
    "(docs/guide/simulator.md); `generate:jobs=100,per_hour=6,seed=0` in place of a file makes one."
)
_CHANGES, _OUT = "What changes cost (seconds)", "Results"


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("simulate", help=help_of("simulate", _HELP))(simulate)


def simulate(
    trace: Annotated[
        str, typer.Argument(metavar="TRACE", help="A file, or generate:...", show_default=False)
    ],
    cluster: Annotated[
        str,
        typer.Option(
            "--cluster", metavar="SPEC", help="Devices by type, such as v100:8,p100:16.", show_default=False
        ),
    ],
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            metavar="NAMES",
            help=f"Policies, of {', '.join(POLICIES)}; changes are against the first.",
        ),
    ] = "priority,wfs,fifo,srtf",
    trace_format: Annotated[
        str,
        typer.Option(
            "--format", metavar="NAME", help="paper, gavel, philly, json, csv; auto looks at the file."
        ),
    ] = "auto",
    throughputs: Annotated[
        Path | None, typer.Option("--throughputs", metavar="FILE", help="Table for a trace of Gavel.")
    ] = None,
    durations: Annotated[
        str,
        typer.Option(
            "--durations",
            metavar="S,S,...",
            help="Measured seconds of the jobs of a trace of the paper, at full demand, start-up included.",
        ),
    ] = "",
    speed: Annotated[
        str,
        typer.Option(
            "--speed", metavar="TYPE=X,...", help="Speed of device types where the trace names none."
        ),
    ] = "",
    queue: Annotated[
        str, typer.Option("--queue", metavar="NAME=N,...", help="Queues and their guaranteed devices.")
    ] = "",
    elastic: Annotated[
        int,
        typer.Option(
            "--elastic",
            metavar="N",
            min=0,
            help="Let jobs run on 1 to N devices, as far as their rates are given.",
        ),
    ] = 0,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help="Keep the earliest N jobs.")] = 0,
    round_s: Annotated[
        float,
        typer.Option(
            "--round",
            metavar="S",
            min=0,
            help="Decide at the ends of rounds of S seconds. 0: at events; 360 for policies that share time.",
        ),
    ] = 0.0,
    decide_every_s: Annotated[
        float,
        typer.Option(
            "--decide-every", metavar="S", min=0, help="In rounds, compute shares at most this often."
        ),
    ] = 0.0,
    start_s: Annotated[
        float, typer.Option("--start-cost", min=0, help="First start.", rich_help_panel=_CHANGES)
    ] = 0.0,
    resume_s: Annotated[
        float, typer.Option("--resume-cost", min=0, help="Start from a checkpoint.", rich_help_panel=_CHANGES)
    ] = 0.0,
    checkpoint_s: Annotated[
        float,
        typer.Option(
            "--checkpoint-cost", min=0, help="Writing it when a job is stopped.", rich_help_panel=_CHANGES
        ),
    ] = 0.0,
    grow_s: Annotated[
        float,
        typer.Option(
            "--grow-cost", min=0, help="New devices wait, old ones go on.", rich_help_panel=_CHANGES
        ),
    ] = 0.0,
    shrink_s: Annotated[
        float,
        typer.Option(
            "--shrink-cost", min=0, help="Pause after devices were taken away.", rich_help_panel=_CHANGES
        ),
    ] = 0.0,
    jobs_csv: Annotated[
        Path | None,
        typer.Option(
            "--jobs-csv", metavar="FILE", help="Write one line a job and policy.", rich_help_panel=_OUT
        ),
    ] = None,
    chart: Annotated[
        Path | None,
        typer.Option(
            "--chart",
            metavar="FILE.png",
            help="Write the allocation chart, and FILE.html where plotly is installed.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the numbers of the table.", rich_help_panel=_OUT),
    ] = None,
    write_trace: Annotated[
        Path | None,
        typer.Option(
            "--write-trace", metavar="FILE", help="Write the trace as our JSON.", rich_help_panel=_OUT
        ),
    ] = None,
) -> None:
    """`holdtrue simulate`; `_HELP` says what it does."""
    from holdtrue.cluster import Costs, Rounds, check_demands, find_policies, parse_cluster, summarise_outcome
    from holdtrue.cluster.traces import FORMATS, TraceOptions, adapt_jobs, format_json_trace

    if trace_format not in FORMATS:
        raise UsageError(
            f"there is no trace format {trace_format!r}; the formats are {', '.join(FORMATS)}. Name one."
        )
    policies = find_policies(policy)
    devices = parse_cluster(cluster, queue)
    _check_places(chart, jobs_csv, json_file, write_trace)
    costs = Costs(
        start_s=start_s, resume_s=resume_s, checkpoint_s=checkpoint_s, grow_s=grow_s, shrink_s=shrink_s
    )
    rounds = (
        Rounds(length_s=round_s or 360.0, decide_every_s=decide_every_s)
        if round_s or decide_every_s
        else None
    )
    options = TraceOptions(
        format=trace_format,  # type: ignore[arg-type]  # checked above
        throughputs=throughputs,
        durations=_numbers(durations, "--durations"),
        start_s=start_s,
        limit=limit,
    )
    jobs = adapt_jobs(_read(trace, options), devices.kinds, _speeds(speed), elastic)
    check_demands(jobs, devices)
    if write_trace is not None:
        _write(write_trace, format_json_trace(jobs))
    outcomes = _simulate_all(jobs, devices, policies, costs, rounds)
    summaries = [summarise_outcome(outcome) for outcome in outcomes]
    show_table(summaries, f"{len(jobs)} jobs of {Path(trace).name} on {cluster}")
    _write_results(outcomes, summaries, jobs_csv, chart, json_file)


def _read(trace: str, options: object) -> tuple[Job, ...]:
    from holdtrue.cluster.traces import (
        TraceOptions,
        generate_trace,
        parse_generator,
        parse_throughputs,
        read_trace,
    )

    assert isinstance(options, TraceOptions)
    if not trace.startswith("generate:"):
        return read_trace(Path(trace), options)
    table = None
    if options.throughputs is not None:
        table = parse_throughputs(_text_of(options.throughputs), options.throughputs.name)
    return generate_trace(parse_generator(trace), table)


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(
            f"{path} cannot be read ({reason_of(problem)}); it must be a text file. Check the path."
        ) from problem


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(
            f"{option} is {text!r}; it is a list of numbers such as 656,1440. Correct it."
        ) from None


def _speeds(text: str) -> dict[str, float]:
    speeds = {}
    for part in filter(None, text.split(",")):
        kind, _, value = part.partition("=")
        (speeds[kind.strip()],) = _numbers(value or "?", "--speed")
        if not 0 < speeds[kind.strip()] < float("inf"):
            raise UsageError(f"--speed has {part!r}; a speed is a positive number. Write --speed p100=0.5.")
    return speeds


def _simulate_all(
    jobs: Sequence[Job], cluster: Cluster, policies: Sequence[Policy], costs: object, rounds: object
) -> list[Outcome]:
    from holdtrue.cluster import Costs, Rounds, run_simulation

    assert isinstance(costs, Costs)
    assert rounds is None or isinstance(rounds, Rounds)
    outcomes = []
    with show_progress(len(policies) * len(jobs)) as advance:
        for policy in policies:
            outcomes.append(
                run_simulation(
                    jobs,
                    cluster,
                    policy,
                    costs=costs,
                    rounds=rounds,
                    on_progress=lambda done, total, name=policy.name: advance(name),  # type: ignore[misc]  # name is bound
                )
            )
    return outcomes


def _write_results(
    outcomes: Sequence[Outcome],
    summaries: Sequence[Summary],
    jobs_csv: Path | None,
    chart: Path | None,
    json_file: Path | None,
) -> None:
    from holdtrue.cluster import format_jobs_csv, write_html, write_png

    if jobs_csv is not None:
        texts = [format_jobs_csv(outcome) for outcome in outcomes]
        _write(jobs_csv, texts[0] + "".join(text.split("\n", 1)[1] for text in texts[1:]))
    if json_file is not None:
        _write(json_file, json.dumps([dataclasses.asdict(summary) for summary in summaries], indent=1) + "\n")
    if chart is not None:
        page = chart.with_suffix(".html")
        try:
            write_png(outcomes, chart)
            say(f"wrote {chart}")
            if write_html(outcomes, page):
                say(f"wrote {page}")
        except OSError as problem:
            raise unwritable(chart, problem.strerror or problem) from problem


def _write(path: Path, text: str) -> None:
    write_text(path, text)
    say(f"wrote {path}")


def _check_places(chart: Path | None, *others: Path | None) -> None:
    """Refuse results that could not be written before the minutes that a simulation may take.

    Raises:
        UsageError: a folder is not there, or a chart is to be something else than PNG.
    """
    if chart is not None and chart.suffix != ".png":
        raise UsageError(
            f"--chart is {str(chart)!r}; charts are written as PNG. Give it a name that ends in .png."
        )
    if chart is not None and find_spec("matplotlib") is None:
        raise UsageError(
            "matplotlib is not installed and charts are drawn with it. Install holdtrue[cluster], or leave out --chart."
        )
    for path in filter(None, (chart, *others)):
        check_place(path)
