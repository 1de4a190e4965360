"""A model leaves with proof: written for other runtimes, run there on real examples, and compared with PyTorch."""

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from holdtrue.errors import UsageError

from ._compare import Agreement, compare_outputs
from ._models import LoadedModel, ask, first_line, load_model
from ._predict import rows_for

TARGETS = ("onnx", "torch")
_NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}

Inputs = tuple[torch.Tensor, ...]
Outputs = list[torch.Tensor]


def export_model(
    model: str, data: str, out: str, *, weights: str | None, targets: tuple[str, ...], examples: int
) -> dict[str, Agreement]:
    """Write a model for other runtimes, run each of them, and say how far it is from PyTorch.

    Args:
        model: See `load_model`.
        data: See `load_data`; its first examples are compared.
        out: A folder: `model.onnx`, `model.pt2`, `agreement.json`.
        weights: See `load_model`.
        targets: Of `onnx` and `torch`.
        examples: How many examples to compare.

    Returns:
        What each runtime gave, by its name.

    Raises:
        UsageError: a target is not known, or what it needs is not installed; the model can not be exported.
    """
    _check(targets, examples)
    loaded = load_model(model, weights=weights)
    rows = rows_for(loaded, data)
    count = loaded.pass_size or max(2, min(examples, len(rows)))  # of 1, torch.export would make a constant
    inputs, names = _inputs_of([rows[min(i, len(rows) - 1)] for i in range(count)])  # the last one fills up
    single, real = _Single(loaded, names), min(count, len(rows))
    folder = _folder(out)
    with torch.no_grad():
        batch = dict(zip(names, inputs, strict=True)) if names else inputs[0]
        ask(loaded, data)(batch)
        reference = _of_each(_call(single, inputs), count)
        program = _trace(single, inputs, loaded.pass_size)
        found: dict[str, Agreement] = {}
        if "torch" in targets:
            torch.export.save(program, folder / "model.pt2")
            again = torch.export.load(folder / "model.pt2").module()
            found["torch.export"] = _compare(reference, _call(again, inputs), real)
        if "onnx" in targets:
            path = folder / "model.onnx"
            _write_onnx(program, names or [f"input_{i}" for i in range(len(inputs))], path)
            for name, runtime in _runtimes().items():
                found[name] = _compare(reference, _run_in(name, runtime, path, inputs), real)
    _say(found, folder, real)
    return found


def _check(targets: tuple[str, ...], examples: int) -> None:
    for target in targets:
        if target not in TARGETS:
            raise UsageError(
                f"--to names {target!r}; the targets are {', '.join(TARGETS)}. Name some of them."
            )
        missing = [name for name in _NEEDED[target] if importlib.util.find_spec(name) is None]
        if missing:
            raise UsageError(
                f"--to {target} needs {', '.join(missing)}, which is not installed. Install the extra: holdtrue[export]."
            )
    if examples < 2:
        raise UsageError(f"--examples is {examples}; at least 2 show that any number will do. Give more.")


def _folder(out: str) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--out {out} can be no folder ({error.strerror}); model and agreement are written into one. Name another."
        ) from error
    return folder


def _inputs_of(rows: list[Any]) -> tuple[Inputs, list[str]]:
    """A batch as positional inputs, and their names where the data has some."""
    batch = torch.utils.data.default_collate(rows)
    return (tuple(batch.values()), list(batch)) if isinstance(batch, dict) else ((batch,), [])


def _call(module: Callable[..., Any], inputs: Inputs) -> list[Any]:  # Any: tensors, if the model is such
    return list(torch.utils._pytree.tree_leaves(module(*inputs)))


def _of_each(outputs: list[Any], count: int) -> Outputs:
    """Outputs that can be compared, example by example."""
    for found in outputs:
        if not isinstance(found, torch.Tensor) or found.dim() == 0 or len(found) != count:
            what = tuple(found.shape) if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
            raise UsageError(
                f"the model gave {what} for {count} examples; outputs are tensors whose first axis is of examples. "
                f"Return a row for each."
            )
    if not outputs:
        raise UsageError("the model gave no output; what it gives is compared. Return a tensor.")
    return outputs


def _compare(reference: Outputs, given: Outputs, examples: int) -> Agreement:
    """All outputs beside PyTorch's: the largest differences of any, and the predictions of the first."""
    if len(given) != len(reference):
        raise UsageError(
            f"the model has {len(reference)} outputs, and {len(given)} where it was written to; they cannot be compared. "
            f"Return each tensor once, and no input as it is."
        )
    found = [compare_outputs(a[:examples], b[:examples]) for a, b in zip(reference, given, strict=True)]
    return replace(found[0], ulps=max(f.ulps for f in found), absolute=max(f.absolute for f in found))


class _Single(torch.nn.Module):
    """A model asked by position, of transformers' outputs, the logits or what comes first."""

    def __init__(self, loaded: LoadedModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = loaded.module, names

    def forward(self, *inputs: torch.Tensor) -> Any:  # Any: a tensor
        found = (
            self.model(**dict(zip(self.names, inputs, strict=True))) if self.names else self.model(*inputs)
        )
        if hasattr(found, "to_tuple"):
            return found.logits if hasattr(found, "logits") else found.to_tuple()[0]
        return found


def _trace(single: _Single, inputs: Inputs, size: int | None) -> torch.export.ExportedProgram:
    """The model as a program for any number of examples, or for as many as it takes."""
    batch = None if size else {0: torch.export.Dim("examples", min=1)}
    shapes = {"inputs": tuple(batch for _ in inputs)}
    try:
        return torch.export.export(single, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise UsageError(
            f"torch.export cannot follow the model: {first_line(error)}. Its forward must not depend on values of "
            f"tensors by Python's own if."
        ) from error


def _write_onnx(program: torch.export.ExportedProgram, names: list[str], path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        try:
            written = torch.onnx.export(program, input_names=names, dynamo=True, verbose=False)
            assert written is not None
            written.save(str(path), external_data=False)
        except Exception as error:  # of many kinds, for an operator that ONNX has not
            raise UsageError(
                f"the model cannot be written as ONNX: {first_line(_first_cause(error))}. "
                f"Leave it out: --to torch."
            ) from error


def _first_cause(error: Exception) -> Exception:
    """What an error goes back to: the exporter wraps its own in pages of advice."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _runtimes() -> dict[str, Callable[[Path, Inputs], Outputs]]:
    found: dict[str, Callable[[Path, Inputs], Outputs]] = {"ONNX Runtime": _run_onnxruntime}
    if importlib.util.find_spec("openvino") is not None:
        found["OpenVINO"] = _run_openvino
    return found


def _run_in(name: str, runtime: Callable[[Path, Inputs], Outputs], path: Path, inputs: Inputs) -> Outputs:
    try:
        return runtime(path, inputs)
    except Exception as error:  # of many kinds, for an operator or an element that it has not
        raise UsageError(
            f"{path} is written, and {name} cannot run it: {type(error).__name__}: {first_line(error)}. "
            f"Nothing is known of it there. Give a model and data that it takes, or leave it out: --to torch."
        ) from error


def _arrays(names: list[str], inputs: Inputs) -> dict[str, Any]:
    return {name: value.numpy() for name, value in zip(names, inputs, strict=True)}


def _run_onnxruntime(path: Path, inputs: Inputs) -> Outputs:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    arrays = _arrays([i.name for i in session.get_inputs()], inputs)
    return [torch.from_numpy(found) for found in session.run(None, arrays)]


def _run_openvino(path: Path, inputs: Inputs) -> Outputs:
    import openvino

    # Otherwise it would compute in bfloat16 where the processor has it.
    model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    arrays = _arrays([i.get_any_name() for i in model.inputs], inputs)
    found = model(arrays)
    return [torch.from_numpy(found[i].copy()) for i in range(len(model.outputs))]


def _say(found: dict[str, Agreement], folder: Path, examples: int) -> None:
    (folder / "agreement.json").write_text(
        json.dumps({"examples": examples, "runtimes": {n: asdict(a) for n, a in found.items()}}, indent=2)
        + "\n"
    )
    print(
        f"{examples} example{'s' * (examples != 1)} beside PyTorch {torch.__version__}; the files are in {folder}"
    )
    for name, agreement in found.items():
        print(f"  {name}: {agreement.sentence}")
