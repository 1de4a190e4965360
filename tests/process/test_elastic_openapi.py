"""The HTTP surface against its own description: schemathesis makes requests from it and judges the answers."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from control_plane import TOKENS, Service, listening, serving

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One controller for the module."""
    with listening() as listener, serving(tmp_path_factory.mktemp("job"), listener, {}) as running:
        agent = running.agent(0)
        agent.start(timeout_s=20)
        agent.say_entered(
            agent.wait_for_view(0, timeout_s=20, what="the first view").generation, 0, seconds=0
        )
        yield running
        assert agent.is_connected, "the job goes on"
        agent.close()


def headers(scope: str) -> dict[str, str]:
    """What a request of a scope has."""
    return {"Authorization": f"Bearer {TOKENS[scope]}", "X-Holdtrue": "1"}


def test_answers_are_as_described_whatever_is_asked(service: Service) -> None:
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json", headers=headers("read"))
    asked = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=25,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:  # Any: schemathesis' own type
            case.call_and_validate(headers=headers("admin"))

        check()
        asked.add(operation.label)
    assert len(asked) == 7


def test_every_operation_says_how_it_refuses(service: Service) -> None:
    import http.client
    import json

    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    connection.request("GET", "/openapi.json", headers=headers("read"))
    described = json.loads(connection.getresponse().read())
    connection.close()
    operations = [operation for path in described["paths"].values() for operation in path.values()]
    assert len(operations) == 7
    for operation in operations:
        assert operation["security"] == [{"HTTPBearer": []}]
        assert {"200", "401", "403", "409", "413", "421", "422"} <= set(operation["responses"])
        assert operation["description"]
