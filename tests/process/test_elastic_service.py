"""The controller's process, as workers, hosts and commands meet it."""

import select
from pathlib import Path

import pytest

from control_plane import WAIT_S, Service, listening, serving
from holdtrue.elastic import ControllerAgent, HostLink, View
from holdtrue.elastic._state import NUMBERS_OF_A_LIFE
from holdtrue.errors import ExpelledError, JobOverError
from holdtrue.wire import Finish, Kill, Start, ToHost

pytestmark = pytest.mark.process


def wait_view(agent: ControllerAgent, after: int) -> View:
    return agent.wait_for_view(after, timeout_s=WAIT_S, what=f"a view after {after}")


def wait_order(host: HostLink) -> ToHost:
    """The next order, and only one."""
    assert select.select([host.fileno()], [], [], WAIT_S)[0]
    (order,) = host.take_orders()
    return order


def start_founders(service: Service, count: int) -> tuple[HostLink, list[ControllerAgent]]:
    host = service.host()
    for number in range(count):
        host.add_running(number)
    host.start()
    host.wait_until_connected(WAIT_S)
    agents = [service.agent(number) for number in range(count)]
    for agent in agents:
        agent.start(timeout_s=WAIT_S)
        assert not agent.is_joiner
    for agent in agents:
        view = wait_view(agent, 0)
        assert [m.worker for m in view.members] == list(range(count))
        agent.say_entered(view.generation, 0, seconds=0.1)
    return host, agents


def await_planned(agent: ControllerAgent, generation: int) -> View:
    agent._link.wait_until(
        lambda: agent.newest_planned >= generation, timeout_s=WAIT_S, what=f"planned view {generation}"
    )
    return agent.view(generation)


def test_a_job_grows_loses_a_worker_shrinks_and_stops(tmp_path: Path) -> None:
    with listening() as listener, serving(tmp_path, listener, {"workers": 2, "least": 2}) as service:
        host, agents = start_founders(service, 2)
        client = service.client()
        assert "from 2 to 3" in client.resize(3)
        order = wait_order(host)
        assert order == Start(worker=2, device=None)
        joiner = service.agent(2)
        joiner.start(timeout_s=WAIT_S)
        assert joiner.is_joiner
        joiner.say_ready()
        view = wait_view(joiner, 0)
        assert (view.generation, view.joiners, view.is_planned) == (2, (2,), True)
        for agent in agents:
            assert await_planned(agent, 2) == view
        everyone = [*agents, joiner]
        for agent in everyone:
            agent.say_entered(2, 5, seconds=0.1)

        host.say_ended(0, status=-9, at=(6, 0, 1))
        for agent in everyone[1:]:
            agent.say_lost(2, 6, waited_for="the exchange", silent=False)
            forced = wait_view(agent, 2)
            assert ([m.worker for m in forced.members], forced.lost, forced.generation) == ([1, 2], (0,), 3)
            agent.say_entered(3, 6, seconds=0.1)

        client.resize(1)
        assert [m.worker for m in await_planned(agents[1], 4).members] == [1]
        await_planned(joiner, 4)
        joiner.say_end(how="left")
        agents[1].say_entered(4, 7, seconds=0.1)
        joiner.close()

        job = client.job()
        assert (job["phase"], job["target"]) == ("running", 1)
        client.stop()
        agents[1]._link.wait_until(lambda: agents[1].stop_reason is not None, timeout_s=WAIT_S, what="stop")
        agents[1].say_end(how="finished")
        assert wait_order(host) == Finish(how="stopped", reason="asked by the user")
        sentences = [event["sentence"] for event in client.events()["events"]]
        assert any("worker 0 was killed by signal 9 in virtual node 1 of step 6" in s for s in sentences)
        for each in (*everyone, host):
            each.close()


def test_an_order_that_is_said_again_is_obeyed_once(tmp_path: Path) -> None:
    with listening() as listener, serving(tmp_path, listener, {"workers": 1, "least": 1}) as service:
        launcher, agents = start_founders(service, 1)
        guest = service.host("guest", slots=1, adds=1)
        guest.start()
        assert wait_order(guest) == Start(worker=1, device=None)
        guest.close()
        forgetful = service.host("guest", slots=1, adds=1)  # the same host, had it not heard the order
        forgetful.start()
        assert wait_order(forgetful) == Start(worker=1, device=None)
        forgetful._hear(Start(worker=1, device=None))
        assert forgetful.take_orders() == []
        assert service.client().job()["target"] == 2
        for each in (*agents, launcher, forgetful):
            each.close()


def test_a_controller_that_was_killed_learns_the_job_from_its_workers(tmp_path: Path) -> None:
    with listening() as listener:
        settings = {"workers": 2, "least": 2, "settle_s": 1.5}
        with serving(tmp_path, listener, settings) as service:
            host, agents = start_founders(service, 2)
        with serving(tmp_path, listener, settings | {"life": 1}) as service:
            for agent in agents:
                agent._link.wait_until(lambda a=agent: a.is_connected, timeout_s=WAIT_S, what="a connection")
            host.wait_until_connected(WAIT_S)
            client = service.client()
            client.resize(3)
            assert wait_order(host) == Start(worker=NUMBERS_OF_A_LIFE, device=None)
            joiner = service.agent(NUMBERS_OF_A_LIFE)
            joiner.start(timeout_s=WAIT_S)
            joiner.say_ready()
            view = wait_view(joiner, 0)
            assert ([m.worker for m in view.members], view.joiners, view.generation) == (
                [0, 1, NUMBERS_OF_A_LIFE],
                (NUMBERS_OF_A_LIFE,),
                100_001,
            )
            for each in (joiner, *agents, host):
                each.close()


def test_a_worker_that_was_given_up_and_comes_back_is_told_so(tmp_path: Path) -> None:
    settings = {"workers": 2, "least": 2, "group_timeout_s": 0.5, "kill_wait_s": 0.1, "silence_grace_s": 0.1}
    with listening() as listener, serving(tmp_path, listener, settings) as service:
        host, (first, sleeper) = start_founders(service, 2)
        first.say_lost(1, 3, waited_for="the exchange", silent=True)
        assert wait_order(host) == Kill(worker=1, reason="it is silent and the others have lost it")
        assert [m.worker for m in wait_view(first, 1).members] == [0]
        with pytest.raises(ExpelledError, match="no member"):
            wait_view(sleeper, 1)
        again = service.agent(1)
        with pytest.raises(ExpelledError, match="number is not given again"):
            again.start(timeout_s=WAIT_S)
        for each in (first, sleeper, again, host):
            each.close()


def test_an_error_in_a_script_fails_the_job_at_once(tmp_path: Path) -> None:
    with listening() as listener, serving(tmp_path, listener, {"workers": 2, "least": 2}) as service:
        host, (first, second) = start_founders(service, 2)
        first.say_end(how="failed", sentence="division by zero", virtual_node=3, step=7)
        order = wait_order(host)
        reason = "worker 0 failed in virtual node 3 of step 7: division by zero"
        assert order == Finish(how="failed", reason=reason)
        with pytest.raises(JobOverError, match="division by zero"):
            wait_view(second, 1)
        for each in (first, second, host):
            each.close()
