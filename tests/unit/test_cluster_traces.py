"""Traces: every format is read, and a malformed one is refused with its line and column."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.cluster import Job, Rates
from holdtrue.cluster.traces import (
    GeneratorOptions,
    TraceOptions,
    adapt_jobs,
    format_json_trace,
    generate_trace,
    parse_csv_trace,
    parse_gavel_trace,
    parse_generator,
    parse_json_trace,
    parse_paper_trace,
    parse_philly_trace,
    parse_throughputs,
    read_trace,
)
from holdtrue.cluster.traces._positions import parse_json
from holdtrue.errors import UsageError

TABLE = """{"v100": {"('A', 1)": 4.0, "('A', 2)": {"null": 6.0}},
 "v100_unconsolidated": {"('A', 1)": 1.0},
 "k80": {"('A', 1)": 1.0, "('A', 2)": 0.0}}"""
GAVEL = "A\trun\tdir\t--steps\t1\t100\t2\t1\t-1.000000\t30\n"
PAPER = """[{"arrival_time": 1, "workload": "bert", "gpu_demand": 4, "priority": 5,
  "batch_size": 64, "num_steps": 105, "num_epochs": 10, "glue_task": "SST-2"}]"""
PHILLY = "timestamp,duration,num_gpus,gpu_time,cluster\n2017-10-09 07:01:55,66.0,1,66.0,a\n2017-10-09 07:00:55,9.0,2,18.0,b\n"


def test_gavels_lines_become_rigid_jobs_with_their_throughputs() -> None:
    (job,) = parse_gavel_trace(GAVEL, "t.trace", parse_throughputs(TABLE, "t.json"))
    assert (job.arrival_s, job.work, job.min_devices, job.max_devices, job.kind) == (30, 100, 2, 2, "A")
    assert job.rates.at("v100", 2) == 6.0
    assert job.rates.at("k80", 2) == 1.0


def test_the_papers_jobs_are_elastic_up_to_their_demand() -> None:
    (job,) = parse_paper_trace(PAPER, "t.json")
    assert (job.min_devices, job.max_devices, job.weight, job.work) == (1, 4, 5, 1050)
    (measured,) = parse_paper_trace(PAPER, "t.json", durations=[500], start_s=60)
    assert measured.work / measured.rates.at("v100", 4) == pytest.approx(440)


def test_phillys_jobs_are_sorted_and_begin_at_zero() -> None:
    first, second = parse_philly_trace(PHILLY, "p.csv")
    assert (first.arrival_s, first.max_devices, second.arrival_s, second.work) == (0, 2, 60, 66)
    assert len(parse_philly_trace(PHILLY, "p.csv", limit=1)) == 1


def test_our_csv_and_json_say_the_same() -> None:
    from_csv = parse_csv_trace("id,arrival_s,duration_s,max_devices,queue\na,5,60,2,q\n", "t.csv")
    from_json = parse_json_trace(
        '{"jobs": [{"id": "a", "arrival_s": 5, "duration_s": 60, "max_devices": 2, "queue": "q"}]}', "t.json"
    )
    assert from_csv == from_json


def test_a_written_trace_is_read_back_equal() -> None:
    jobs = generate_trace(GeneratorOptions(jobs=40, seed=5))
    assert parse_json_trace(format_json_trace(jobs), "t.json") == jobs


BAD = [
    (parse_json_trace, '{"jobs": [', "line 1, column 11"),
    (
        parse_json_trace,
        '{"jobs": [\n  {"id": "a",\n   "arrival_s": -1, "duration_s": 2}]}',
        "line 3, column 17",
    ),
    (parse_json_trace, '{"jobs": [{"id": "a", "arrival_s": 1, "colour": 3}]}', "line 1, column 49"),
    (parse_json_trace, '{"jobs": [{"id": "a"}]}', "line 1, column 11"),
    (parse_json_trace, '{"jobs": [{"id": "a", "arrival_s": 1}]}', "line 1, column 11"),
    (parse_json_trace, '{"jobs": [4]}', "line 1, column 11"),
    (parse_json_trace, '{"job": []}', "line 1, column 1"),
    (
        parse_json_trace,
        '{"jobs": [{"id": "a", "arrival_s": 1, "duration_s": 2, "min_devices": 3}]}',
        "line 1, column 71",
    ),
    (
        parse_json_trace,
        '{"jobs": [{"id": "a", "arrival_s": 1, "steps": 2, "rates": {"v100": {"x": 3}}}]}',
        "line 1, column 75",
    ),
    (parse_csv_trace, "id,arrival_s,duration_s\na,0,60\nb,x,60\n", "line 3, column 3"),
    (parse_csv_trace, "id,arrival_s,duration_s\na,0\n", "line 2, column 5"),
    (parse_csv_trace, "id,arrival_s,duration_s,colour\n", "line 1, column 25"),
    (parse_csv_trace, "id,arrival_s\n", "line 1, column 1"),
    (parse_paper_trace, PAPER.replace("64", '"many"'), "line 2, column 17"),
    (parse_paper_trace, PAPER.replace('"bert"', '"gpt"'), "line 1, column 34"),
    (parse_paper_trace, PAPER.replace('"priority": 5', '"prio": 5'), "line 1, column 67"),
    (parse_paper_trace, '{"a": 1}', "line 1, column 1"),
    (parse_philly_trace, PHILLY.replace("9.0", "nine"), "line 3, column 21"),
    (parse_philly_trace, PHILLY.replace("2017-10-09 07:00:55", "soon"), "line 3, column 1"),
    (parse_philly_trace, PHILLY + "2017-10-09 07:00:55,9.0\n", "line 4, column 24"),
]


@pytest.mark.parametrize(("parse", "text", "place"), BAD)
def test_a_malformed_trace_is_refused_with_line_and_column(parse: object, text: str, place: str) -> None:
    assert callable(parse)
    with pytest.raises(UsageError) as refused:
        parse(text, "the-trace")
    assert str(refused.value).startswith(f"the-trace, {place}: "), str(refused.value)


@pytest.mark.parametrize(
    ("line", "place"),
    [
        (GAVEL.replace("\t30", ""), "line 1, column 38"),
        (GAVEL.replace("\t100\t", "\tmany\t"), "line 1, column 21"),
        (GAVEL.replace("\t2\t1", "\t0\t1"), "line 1, column 25"),
        (GAVEL.replace("A\t", "B\t"), "line 1, column 1"),
        (GAVEL + GAVEL.replace("\t30", "\t-30"), "line 2, column 39"),
    ],
)
def test_a_malformed_line_of_gavel_is_refused_with_line_and_column(line: str, place: str) -> None:
    with pytest.raises(UsageError, match=f"^t.trace, {place}: "):
        parse_gavel_trace(line, "t.trace", parse_throughputs(TABLE, "t.json"))


def test_a_malformed_table_is_refused_with_line_and_column() -> None:
    with pytest.raises(UsageError, match=r"^t.json, line 1, column 23: "):
        parse_throughputs('{"v100": {"A, twice": 4.0}}', "t.json")
    with pytest.raises(UsageError, match=r"^t.json, line 1, column 10: "):
        parse_throughputs('{"v100": [1]}', "t.json")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(value=_JSON, indent=st.sampled_from([None, 0, 2]))
def test_positions_leave_the_json_as_it_is(value: object, indent: int | None) -> None:
    assert parse_json(json.dumps(value, indent=indent), "t").plain() == value


def test_formats_are_told_apart_and_gzip_is_read(tmp_path: Path) -> None:
    (tmp_path / "throughputs_isolated_simulation.json").write_text(TABLE)
    (tmp_path / "traces").mkdir()
    texts = {
        "a.trace": GAVEL,
        "b.json": PAPER,
        "c.csv": PHILLY,
        "d.csv": "id,arrival_s,duration_s\na,0,60\n",
        "e.json": '{"jobs": [{"id": "a", "arrival_s": 5, "duration_s": 60}]}',
    }
    for name, text in texts.items():
        (tmp_path / "traces" / name).write_text(text)
        zipped = tmp_path / "traces" / f"{name}.gz"
        zipped.write_bytes(gzip.compress(text.encode()))
        assert read_trace(tmp_path / "traces" / name) == read_trace(zipped)
    assert len(read_trace(tmp_path / "traces/c.csv", TraceOptions(limit=1))) == 1


def test_files_that_cannot_be_read_end_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(tmp_path / "absent.csv")
    (tmp_path / "a.trace").write_text(GAVEL)
    with pytest.raises(UsageError, match="Pass --throughputs FILE"):
        read_trace(tmp_path / "a.trace")
    (tmp_path / "empty.csv").write_text("id,arrival_s,duration_s\n")
    with pytest.raises(UsageError, match="has no jobs"):
        read_trace(tmp_path / "empty.csv")
    (tmp_path / "nothing.csv").write_text("")
    with pytest.raises(UsageError, match="there is no column 'id'"):
        read_trace(tmp_path / "nothing.csv")
    with pytest.raises(UsageError, match="2 durations are given for the 1 jobs"):
        parse_paper_trace(PAPER, "t", durations=[1, 2])


def test_the_generator_gives_the_same_trace_for_the_same_seed() -> None:
    options = GeneratorOptions(jobs=200, per_hour=12, seed=3)
    jobs = generate_trace(options)
    assert jobs == generate_trace(options)
    assert jobs != generate_trace(GeneratorOptions(jobs=200, per_hour=12, seed=4))
    assert jobs[-1].arrival_s == pytest.approx(199 * 300, rel=0.2)
    table = parse_throughputs(TABLE, "t.json")
    made = generate_trace(GeneratorOptions(jobs=9, demands=((1, 1.0),)), table)
    assert {job.kind for job in made} == {"A"}
    with pytest.raises(UsageError, match="no model has throughputs for 8 devices"):
        generate_trace(GeneratorOptions(jobs=9, demands=((8, 1.0),)), table)


def test_generator_options_are_parsed_or_refused() -> None:
    assert parse_generator("generate:jobs=5,per_hour=2.5,seed=7") == GeneratorOptions(
        jobs=5, per_hour=2.5, seed=7
    )
    for text in ("generate:jobs=x", "generate:size=4"):
        with pytest.raises(UsageError, match="a made trace is written"):
            parse_generator(text)
    with pytest.raises(UsageError, match="all must be positive"):
        parse_generator("generate:jobs=0")


def test_speeds_scale_types_that_a_trace_does_not_name_and_elastic_jobs_grow_as_far_as_rates_are_known() -> (
    None
):
    open_ = Job(id="a", arrival_s=0, work=1, rates=Rates(by_type=(("*", ((1, 2.0),)),)))
    fixed = Job(id="b", arrival_s=0, work=1, rates=Rates(by_type=(("v100", ((1, 2.0), (4, 5.0), (8, 9.0))),)))
    first, second = adapt_jobs([open_, fixed], ["v100", "k80"], {"k80": 0.5}, elastic=4)
    assert (first.rates.at("v100", 1), first.rates.at("k80", 1), second.rates.at("k80", 1)) == (2.0, 1.0, 0.0)
    assert (first.max_devices, second.min_devices, second.max_devices) == (1, 1, 4)


def test_rates_follow_their_points() -> None:
    rates = Rates(by_type=(("v100", ((2, 4.0), (4, 6.0))),))
    assert [rates.at("v100", n) for n in (0, 1, 2, 3, 4, 8)] == [0.0, 2.0, 4.0, 5.0, 6.0, 6.0]
    assert rates.at("k80", 1) == 0.0


def test_the_mark_with_which_spreadsheets_begin_a_file_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    trace = tmp_path / "jobs.csv"
    trace.write_bytes(b"\xef\xbb\xbfid,arrival_s,duration_s\r\na,0,10\r\n")
    assert [job.id for job in read_trace(trace)] == ["a"]


def test_a_trace_that_cannot_be_read_names_its_path_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gone cannot be read \\(No such file or directory\\);"):
        read_trace(tmp_path / "gone")
    damaged = bytearray(gzip.compress(b"id,arrival_s,duration_s\n" * 100))
    damaged[12:30] = bytes(18)
    (tmp_path / "bad.gz").write_bytes(damaged)
    with pytest.raises(UsageError, match=r"bad\.gz cannot be read"):
        read_trace(tmp_path / "bad.gz")
