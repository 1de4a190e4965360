"""What portable numerics says of itself: the list of operators, the checker's processes, the survey of a script."""

import json
from pathlib import Path

import pytest
import torch

from holdtrue.cli import main
from holdtrue.errors import NumericsError
from holdtrue.numerics import __main__ as listing
from holdtrue.numerics import check_portable, covered_operators, operator_groups, portable_mode

UNCOVERED = """
import torch, holdtrue as ht
class Odd(torch.nn.Module):
    def forward(self, x):
        return torch.cummax(x, 1).values
def main():
    run = ht.init(virtual_nodes=1, global_batch_size=4)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), Odd())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = run.prepare(model, optimizer)
    for step in run.steps(torch.utils.data.TensorDataset(torch.ones(8, 3))):
        for (x,) in step:
            step.backward(model(x).mean())
        step.update()
main()
"""


def test_every_covered_operator_is_in_one_group() -> None:
    groups = operator_groups()
    named = [name for names in groups.values() for name in names]
    kinds = covered_operators()
    wanted = {name for names in kinds.values() for name in names}
    assert wanted <= set(named)
    forms = [name for title, names in groups.items() for name in names if name in kinds["forms"]]
    assert len(forms) == len(set(forms))
    assert all(groups.values())


def test_the_list_is_printed_for_people_and_for_programs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["numerics"])
    listing.main()
    text = capsys.readouterr().out
    assert "matrix products" in text
    assert " bmm " in text
    monkeypatch.setattr("sys.argv", ["numerics", "--json"])
    listing.main()
    found = json.loads(capsys.readouterr().out)
    assert "native_group_norm" in found["operators"]["normalisation"]
    assert found["engine"] in found["engines"]


def test_a_survey_is_told_of_what_is_not_covered_and_the_run_goes_on() -> None:
    found: list[tuple[str, str]] = []
    layer = torch.nn.Linear(3, 3)
    with portable_mode(models={"net": layer}, survey=lambda name, module, _: found.append((name, module))):
        y = torch.cummax(layer(torch.ones(2, 3)), 1).values
        torch.linalg.svd(y.detach())
    assert [name for name, _ in found] == ["cummax", "_linalg_svd"]


@pytest.mark.process
@pytest.mark.slow
def test_the_command_surveys_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "train.py"
    script.write_text(UNCOVERED)
    with pytest.raises(SystemExit) as ended:
        main(["numerics", "--json", str(script)])
    assert ended.value.code == 1
    (line,) = json.loads(capsys.readouterr().out)["not_covered"]
    assert (line["operator"], line["module"]) == ("cummax", "module '1' (Odd)")
    script.write_text(UNCOVERED.replace("torch.cummax(x, 1).values", "torch.cumsum(x, 1)"))
    with pytest.raises(SystemExit) as ended:
        main(["numerics", str(script)])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("COVERED")


def test_a_survey_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["numerics", "no-such.py"])
    assert ended.value.code == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.slow
def test_the_checkers_processes_find_what_one_process_cannot() -> None:
    def plain(x: torch.Tensor) -> torch.Tensor:
        with torch.utils._python_dispatch._disable_current_modes():
            return torch.lerp(x, x * x, 0.3)  # a fused multiply-add where there is one

    x = torch.rand(4096)
    assert check_portable(plain, x) > 2
    with pytest.raises(NumericsError, match="plain has other bits with ATEN_CPU_CAPABILITY=default"):
        check_portable(plain, x, processes=True)
    assert check_portable(lambda x: torch.lerp(x, x * x, 0.3), x, processes=True) > 4


def test_a_function_that_cannot_be_sent_is_refused_by_the_checker() -> None:
    with pytest.raises(NumericsError, match=r"cannot be sent to another process.*processes=False"):
        check_portable(lambda x: x + len(str(capture)), torch.ones(2), processes=True)


capture = (value for value in [1])  # a generator: cloudpickle refuses it
