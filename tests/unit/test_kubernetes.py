"""The Kubernetes manifests: valid by Kubernetes' own schemas, and in agreement with each other and with holdtrue.

No cluster is here: that they run is not shown. `tests/process/test_kubernetes_commands.py` runs their commands.
"""

import copy
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from holdtrue.cli._commands import load_command
from holdtrue.launch import JobSpec

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
DOCUMENTS = {
    f"{document['kind']} {document['metadata']['name']}": document
    for file in ("job.yaml", "workers.yaml")
    for document in yaml.safe_load_all((FOLDER / file).read_text())
}
JOB, WORKERS = DOCUMENTS["Job digits"], DOCUMENTS["Deployment digits-workers"]
SERVICE = DOCUMENTS["Service digits"]
VERSIONS = ("1.31", kubernetes_validate.latest_version())
"""podFailurePolicy is stable since 1.31."""


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    return document["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def container_of(document: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod_of(document)["containers"]
    return container  # type: ignore[no-any-return]


def labels_of(document: dict[str, Any]) -> dict[str, str]:
    return document["spec"]["template"]["metadata"]["labels"]  # type: ignore[no-any-return]


def option_of(document: dict[str, Any], name: str) -> str:
    (value,) = [
        w.removeprefix(f"{name}=") for w in container_of(document)["command"] if w.startswith(f"{name}=")
    ]
    return str(value)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_manifest_is_valid_by_the_schemas_of_kubernetes(name: str, version: str) -> None:
    kubernetes_validate.validate(DOCUMENTS[name], version, strict=True)


def misspell(document: dict[str, Any]) -> None:
    pod = pod_of(document)
    pod["terminationGraceSeconds"] = pod.pop("terminationGracePeriodSeconds")


def mistype(document: dict[str, Any]) -> None:
    document["spec"]["replicas"] = "two"


def omit(document: dict[str, Any]) -> None:
    del document["spec"]["selector"]


@pytest.mark.parametrize("break_it", [misspell, mistype, omit])
def test_a_manifest_that_is_wrong_would_be_found(break_it: Callable[[dict[str, Any]], None]) -> None:
    broken = copy.deepcopy(WORKERS)
    break_it(broken)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("document", [JOB, WORKERS], ids=["run", "worker"])
def test_the_command_of_a_container_is_one_that_holdtrue_has(document: dict[str, Any]) -> None:
    program, command, *words = container_of(document)["command"]
    assert program == "holdtrue"
    with load_command(command).make_context(command, words) as context:
        assert context.params["token_file"] == Path("/etc/holdtrue/token")


def test_workers_find_the_controller_by_the_service_and_nothing_else() -> None:
    (port,) = SERVICE["spec"]["ports"]
    (container_port,) = container_of(JOB)["ports"]
    assert SERVICE["spec"]["clusterIP"] == "None", "the controller answers to its own address alone"
    assert SERVICE["spec"]["selector"].items() <= labels_of(JOB).items()
    assert not SERVICE["spec"]["selector"].items() <= labels_of(WORKERS).items()
    assert port["targetPort"] == container_port["name"]
    assert option_of(WORKERS, "--join") == f"http://{SERVICE['metadata']['name']}:{port['port']}"
    assert option_of(JOB, "--listen") == f"$(POD_IP):{container_port['containerPort']}"
    assert port["port"] == container_port["containerPort"], "a headless service maps no ports"
    (address,) = [e for e in container_of(JOB)["env"] if e["name"] == "POD_IP"]
    assert address["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"


def test_both_have_one_image_one_token_one_kind_of_device_and_little_rights() -> None:
    job, workers = container_of(JOB), container_of(WORKERS)
    assert job["image"] == workers["image"]
    assert job["workingDir"] == workers["workingDir"]
    assert job["resources"] == workers["resources"]
    assert job["resources"]["requests"] == job["resources"]["limits"]
    assert job["securityContext"] == workers["securityContext"]
    for document in (JOB, WORKERS):
        (secret,) = [v["secret"]["secretName"] for v in pod_of(document)["volumes"] if "secret" in v]
        assert secret == "digits-join"
        mounts = {mount["name"]: mount["mountPath"] for mount in container_of(document)["volumeMounts"]}
        assert mounts.keys() == {volume["name"] for volume in pod_of(document)["volumes"]}
        assert option_of(document, "--token-file").startswith(f"{mounts['token']}/")
        assert pod_of(document)["securityContext"]["runAsNonRoot"] is True
        assert pod_of(document)["automountServiceAccountToken"] is False


def test_no_token_is_in_a_manifest() -> None:
    assert not [name for name in DOCUMENTS if name.startswith("Secret")]
    assert not [e for d in (JOB, WORKERS) for e in container_of(d).get("env", ()) if "TOKEN" in e["name"]]


def test_a_pod_is_killed_only_after_holdtrue_has_given_up_the_polite_end() -> None:
    waits = {field.name: field.default for field in fields(JobSpec)}
    for document, wait_s in ((WORKERS, waits["interrupt_wait_s"]), (JOB, float(option_of(JOB, "--timeout")))):
        grace_s = pod_of(document)["terminationGracePeriodSeconds"]
        assert wait_s < grace_s <= wait_s + 60
        assert "preStop" not in str(document), "SIGTERM is the notice"


def test_selectors_select_what_they_are_for() -> None:
    policy = DOCUMENTS["NetworkPolicy digits"]["spec"]
    (rule,) = policy["ingress"]
    (source,) = rule["from"]
    for document in (JOB, WORKERS):
        assert policy["podSelector"]["matchLabels"].items() <= labels_of(document).items()
        assert source["podSelector"]["matchLabels"].items() <= labels_of(document).items()
    assert WORKERS["spec"]["selector"]["matchLabels"].items() <= labels_of(WORKERS).items()
    (claim,) = [v for v in pod_of(JOB)["volumes"] if "persistentVolumeClaim" in v]
    assert (
        claim["persistentVolumeClaim"]["claimName"]
        == DOCUMENTS["PersistentVolumeClaim digits-runs"]["metadata"]["name"]
    )


def test_the_image_has_what_the_manifests_run() -> None:
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert [word for word in copied if not (FOLDER.parents[1] / word).exists()] == []
    assert f"WORKDIR {container_of(JOB)['workingDir']}" in lines
    security = pod_of(JOB)["securityContext"]
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}" in lines
    script = next(word for word in container_of(JOB)["command"] if word.endswith(".py"))
    assert any(Path(word).name == script for word in copied)
