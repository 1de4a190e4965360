"""What a worker needs to join, as environment variables."""

import re
from pathlib import Path

import pytest

from holdtrue.errors import UsageError
from holdtrue.wire import (
    KNOWN_PREFIXES,
    KNOWN_VARIABLES,
    WIRE_VERSION,
    WorkerEnvironment,
    describe_unknown_variables,
)

ROOT = Path(__file__).resolve().parents[2]

FULL = WorkerEnvironment(
    worker=0,
    rank=0,
    world_size=3,
    store_host="127.0.0.1",
    store_port=41234,
    store_fd=5,
    report_fd=6,
    life_fd=7,
    generation=2,
    job="mnist",
    device="cuda:0",
    mapping="0-7/8-11/12-15",
)
LEAST = WorkerEnvironment(worker=2, rank=2, world_size=3, store_host="::1", store_port=1)
ELASTIC = WorkerEnvironment(
    worker=5,
    store_host="10.1.0.2",
    store_port=4000,
    store_fd=8,
    report_fd=6,
    life_fd=7,
    log_file="runs/x/logs/worker-5.log",
    job="mnist",
    device="cuda:1",
    controller_url="http://10.1.0.1:4100",
    token_file="/run/user/0/holdtrue/jobs/mnist.join",
    group_timeout_s=2.5,
    at_fd=9,
)


@pytest.mark.parametrize("worker", [FULL, LEAST, ELASTIC])
def test_a_worker_environment_comes_back_from_its_variables(worker: WorkerEnvironment) -> None:
    assert WorkerEnvironment.from_env({"PATH": "/bin", **worker.to_env()}) == worker


def test_a_process_without_the_variables_is_no_worker() -> None:
    assert WorkerEnvironment.from_env({"HOLDTRUE_SEED": "3", "HOLDTRUE_DEVICE": "cpu"}) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"HOLDTRUE_WORKER_VERSION": "2"}, f"speaks version {WIRE_VERSION}"),
        ({"HOLDTRUE_WORKER_RANK": "one"}, "HOLDTRUE_WORKER_RANK is 'one'; it must be a whole number"),
        ({"HOLDTRUE_WORKER_RANK": "-1"}, "HOLDTRUE_WORKER_RANK is '-1'"),
        ({"HOLDTRUE_WORKER_RANK": "3"}, "rank is 3 and world_size is 3"),
        ({"HOLDTRUE_WORKER_RANK": "1", "HOLDTRUE_WORKER_WORKER": "1"}, "rank 1 has a store_fd"),
        ({"HOLDTRUE_WORKER_COLOUR": "red"}, "unknown names ['HOLDTRUE_WORKER_COLOUR']"),
        ({"HOLDTRUE_WORKER_WORKER": "1"}, "worker is 1 and rank is 0"),
    ],
)
def test_wrong_variables_are_refused_by_name(change: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError) as refusal:
        WorkerEnvironment.from_env({**FULL.to_env(), **change})
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"HOLDTRUE_WORKER_RANK": "0"}, "also rank"),
        ({"HOLDTRUE_WORKER_MAPPING": "0-7"}, "also mapping"),
        ({"HOLDTRUE_WORKER_GROUP_TIMEOUT_S": "soon"}, "it must be a number"),
        ({"HOLDTRUE_WORKER_WORKER": "-1"}, "HOLDTRUE_WORKER_WORKER is '-1'"),
    ],
)
def test_an_elastic_worker_has_nothing_of_a_fixed_group(change: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError) as refusal:
        WorkerEnvironment.from_env({**ELASTIC.to_env(), **change})
    assert words in str(refusal.value)


@pytest.mark.parametrize("missing", ["TOKEN_FILE", "STORE_FD"])
def test_an_elastic_worker_needs_its_token_and_its_socket(missing: str) -> None:
    env = ELASTIC.to_env()
    del env[f"HOLDTRUE_WORKER_{missing}"]
    with pytest.raises(UsageError, match="it needs both"):
        WorkerEnvironment.from_env(env)


@pytest.mark.parametrize("missing", ["VERSION", "WORKER", "RANK", "WORLD_SIZE", "STORE_HOST", "STORE_PORT"])
def test_a_missing_variable_is_refused(missing: str) -> None:
    env = FULL.to_env()
    del env[f"HOLDTRUE_WORKER_{missing}"]
    with pytest.raises(UsageError):
        WorkerEnvironment.from_env(env)


def test_every_variable_that_is_named_anywhere_is_in_the_one_list() -> None:
    files = [
        ROOT / "Makefile",
        *(
            p
            for folder in ("src", "examples", "docs", "deploy", "benchmarks")
            for p in (ROOT / folder).rglob("*.*")
        ),
        *(ROOT / "tests").rglob("conftest.py"),
    ]
    texts = [p.read_text() for p in files if p.suffix in {"", ".py", ".md", ".sh", ".yaml", ".sbatch"}]
    named = {name for text in texts for name in re.findall(r"\bHOLDTRUE_[A-Z_]+[A-Z]\b(?!_)", text)}
    assert "HOLDTRUE_NUMERICS_ENGINE" in named
    unknown = {n for n in named if n not in KNOWN_VARIABLES and not f"{n}_".startswith(KNOWN_PREFIXES)}
    assert unknown == {"HOLDTRUE_SEDE"}, "the example of `describe_unknown_variables` alone"


def test_a_variable_that_is_none_is_told_with_the_nearest_that_is() -> None:
    names = [
        "HOLDTRUE_TIMEOUT",
        "HOLDTRUE_THREAD",
        "HOLDTRUE_XYZ",
        "HOLDTRUE_WORKER_RANK",
        "HOLDTRUE_SOAK_SEED",
    ]
    services = ["HOLDTRUE_PORT", "HOLDTRUE_JOB_SERVICE_HOST", "HOLDTRUE_JOB_SERVICE_PORT_HTTP"]
    said = describe_unknown_variables([*names, *services, *KNOWN_VARIABLES, "PATH"])
    assert [sentence.split()[2] for sentence in said] == [
        "HOLDTRUE_THREAD",
        "HOLDTRUE_TIMEOUT",
        "HOLDTRUE_XYZ",
    ]
    assert [sentence.split()[-1] for sentence in said] == [
        "HOLDTRUE_THREADS?",
        "HOLDTRUE_TIMEOUT_S?",
        "HOLDTRUE_SEED.",
    ]
