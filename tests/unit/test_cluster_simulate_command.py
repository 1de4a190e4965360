"""`holdtrue simulate`: its table, its files, its refusals."""

import csv
import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from holdtrue.cli._simulate import add_to
from holdtrue.cluster import (
    POLICIES,
    format_jobs_csv,
    parse_cluster,
    run_simulation,
    stack_devices,
    summarise_outcome,
)
from holdtrue.cluster.traces import GeneratorOptions, adapt_jobs, generate_trace, parse_csv_trace
from holdtrue.errors import UsageError

MADE = "generate:jobs=12,per_hour=30,seed=1"


def _run(*arguments: str) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)
    add_to(app)
    result = CliRunner().invoke(app, ["simulate", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def _refused(*arguments: str) -> str:
    with pytest.raises(UsageError) as refused:
        _run(*arguments)
    return str(refused.value)


def test_the_table_has_every_number_and_the_change_against_the_first_policy() -> None:
    output = _run(MADE, "--cluster", "v100:8", "--policy", "priority,wfs")
    for label in (
        "mean JCT",
        "p99 JCT",
        "median queuing",
        "makespan",
        "allocated",
        "useful",
        "Jain",
        "resizes",
    ):
        assert label in output
    assert "changes against priority" in output
    jobs = adapt_jobs(generate_trace(GeneratorOptions(jobs=12, per_hour=30, seed=1)), ["v100"], {})
    before, after = (
        summarise_outcome(run_simulation(jobs, parse_cluster("v100:8"), POLICIES[name]))
        for name in ("priority", "wfs")
    )
    assert f"{after.mean_jct_s:,.0f} ({after.mean_jct_s / before.mean_jct_s - 1:+.1%})" in output


def test_files_are_written_and_agree_with_the_table(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("plotly")
    names = {name: tmp_path / name for name in ("jobs.csv", "chart.png", "numbers.json", "trace.json")}
    options = ("--jobs-csv", "--chart", "--json", "--write-trace")
    files = [word for pair in zip(options, map(str, names.values()), strict=True) for word in pair]
    _run(MADE, "--cluster", "v100:8", "--policy", "wfs,fifo", *files)
    with names["jobs.csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert [row["policy"] for row in rows] == ["wfs"] * 12 + ["fifo"] * 12
    wfs, fifo = json.loads(names["numbers.json"].read_text())
    assert wfs["mean_jct_s"] == pytest.approx(sum(float(row["jct_s"]) for row in rows[:12]) / 12, abs=0.01)
    assert names["chart.png"].read_bytes()[:4] == b"\x89PNG"
    page = (tmp_path / "chart.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "Plotly.newPlot" in page
    drawn = page[page.rindex("Plotly.newPlot") :]
    assert {row["job"] for row in rows} == set(re.findall(r'"name":"job ([^"]+)"', drawn)), (
        "every job is a band"
    )
    again = _run(str(names["trace.json"]), "--cluster", "v100:8", "--policy", "fifo")
    assert f"{fifo['mean_jct_s']:,.0f}" in again


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--policy", "drf"), "there is no policy 'drf'"),
        (("--format", "xml"), "there is no trace format 'xml'"),
        (("--speed", "p100"), "a list of numbers"),
        (("--speed", "p100=-1"), "a speed is a positive number"),
        (("--durations", "1,x"), "--durations is '1,x'"),
        (("--queue", "a=9"), "guaranteed 9 devices of 8"),
        (("--chart", "chart.pdf"), "charts are written as PNG"),
        (("--chart", "/absent/folder/x.png"), "/absent/folder/x.png cannot be written"),
        (("--json", "."), ". cannot be written (it is a folder)"),
        (("--round", "inf"), "a round takes more than 0 s and ends"),
        (("--decide-every", "inf"), "a round takes more than 0 s and ends"),
        (("--jobs-csv", "/absent/folder/x.csv"), "cannot be written"),
        (("--throughputs", "/absent/table.json"), "cannot be read"),
    ],
)
def test_wrong_use_ends_in_a_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    assert sentence in _refused(MADE, "--cluster", "v100:8", *arguments)


def test_a_cluster_without_devices_of_a_type_is_refused_as_it_was_written() -> None:
    assert "the cluster is 'v100:0'; it needs" in _refused(MADE, "--cluster", "v100:0")


def test_the_help_pages_name_every_policy_and_for_live_jobs_those_that_decide_about_them() -> None:
    from holdtrue.cli import _policies

    assert tuple(POLICIES) == _policies.POLICIES
    live = tuple(name for name, policy in POLICIES.items() if policy.answers == "devices")
    assert live == _policies.LIVE_POLICIES


def test_impossible_demands_are_said_before_anything_runs() -> None:
    assert "asks for 8 devices of one type and the cluster has at most 4" in _refused(
        "generate:jobs=60", "--cluster", "v100:4"
    )


def test_every_number_of_a_summary_can_be_counted_by_hand() -> None:
    jobs = adapt_jobs(generate_trace(GeneratorOptions(jobs=6, per_hour=60, seed=2)), ["v100"], {})
    outcome = run_simulation(jobs, parse_cluster("v100:8"), POLICIES["fifo"])
    summary = summarise_outcome(outcome)
    work = sum(job.work * job.max_devices for job in jobs)
    assert summary.useful == pytest.approx(work / (8 * summary.makespan_s))
    assert summary.allocated == pytest.approx(summary.useful)
    assert summary.mean_jct_s == pytest.approx(sum(done.jct_s for done in outcome.jobs) / 6)
    assert 1 / 6 <= summary.jain <= 1
    assert len(format_jobs_csv(outcome).splitlines()) == 7


def test_the_chart_stacks_what_was_held() -> None:
    jobs = adapt_jobs(generate_trace(GeneratorOptions(jobs=60, per_hour=60, seed=2)), ["v100"], {})
    outcome = run_simulation(jobs, parse_cluster("v100:8"), POLICIES["wfs"])
    times, bands = stack_devices(outcome)
    assert len(bands) == 41
    assert all(sum(band[i] for _, band in bands) <= 8 for i in range(len(times)))
    area = sum(band[i] * (times[i + 1] - times[i]) for _, band in bands for i in range(len(times) - 1))
    assert area == pytest.approx(sum(done.held_device_s for done in outcome.jobs))


GUIDE = Path(__file__).parents[2] / "docs/guide/simulator.md"


def test_the_guide_names_every_policy_and_option_and_its_trace_is_read() -> None:
    guide = GUIDE.read_text()
    assert all(f"`{name}`" in guide for name in POLICIES)
    example = guide.split("```csv\n")[1].split("```")[0]
    assert [job.queue for job in parse_csv_trace(example, "guide")] == ["research", "product"]
    app = typer.Typer()
    app.callback()(lambda: None)
    add_to(app)
    options = CliRunner().invoke(app, ["simulate", "--help"], env={"COLUMNS": "200"}).output
    for word in set(re.findall(r"--[a-z][a-z-]+", guide)):
        assert word in options, word
