"""A model from where it is: a Python file, an exported program, a transformers folder."""

import inspect
import runpy
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeGuard, final

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch.export.passes import move_to_device_pass

from holdtrue.errors import HoldtrueError, UsageError
from holdtrue.run import user_frame
from holdtrue.serving import check_model_path

from ._data import Rows


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model, and how it is asked."""

    module: torch.nn.Module
    """The model, in eval mode."""
    pass_size: int | None = None
    """Examples that it takes at a time; None for any number."""
    tokenize: Callable[[list[str], int | None], Rows] | None = None
    """Makes inputs of lines of text, where it can: of so many tokens each, or of as many as the longest."""
    shapes: tuple[tuple[tuple[int | None, ...], torch.dtype], ...] | None = None
    """Of an exported program: its inputs' axes, the first of examples, None for any number; and their elements."""

    def __call__(self, *inputs: Any) -> Any:  # Any: a batch, as tensors or by name
        """Outputs for a batch; of transformers' outputs, the logits or what comes first."""
        batch = inputs[0] if len(inputs) == 1 else inputs
        examples = len(next(iter(batch.values()))) if isinstance(batch, dict) else len(_first(batch))
        missing = (self.pass_size or examples) - examples
        if missing > 0:  # an exported program of one size: filled up, and cut off again
            batch = _map(batch, lambda t: torch.cat([t, t[-1:].expand(missing, *t.shape[1:])]))
        found = self.module(**batch) if isinstance(batch, dict) else self.module(*_tuple(batch))
        if hasattr(found, "to_tuple"):
            found = found.logits if hasattr(found, "logits") else found.to_tuple()[0]
        return _map(found, lambda t: t[:examples].contiguous()) if missing > 0 else found


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return next((line for line in str(error).splitlines() if line.strip()), "it does not say why").rstrip(".")


def _tuple(batch: Any) -> tuple[Any, ...]:
    return tuple(batch) if isinstance(batch, tuple | list) else (batch,)


def _first(batch: Any) -> torch.Tensor:
    first: torch.Tensor = _tuple(batch)[0]
    return first


def _map(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    return torch.utils._pytree.tree_map(change, value)


def check_row(loaded: LoadedModel, row: Any, name: str) -> None:  # Any: a tensor, or tensors by name
    """Refuse data whose rows have other axes or elements than an exported program's inputs.

    Raises:
        UsageError: they have.
    """
    if loaded.shapes is None:
        return
    given = list(row.values()) if isinstance(row, dict) else [row]
    taken = [(axes[1:], dtype) for axes, dtype in loaded.shapes]
    fit = len(given) == len(taken) and all(
        value.dtype == dtype
        and value.dim() == len(axes)
        and all(n in (None, m) for n, m in zip(axes, value.shape, strict=True))
        for value, (axes, dtype) in zip(given, taken, strict=True)
    )
    if not fit:
        has = " and ".join(_words(tuple(value.shape), value.dtype) for value in given)
        wants = " and ".join(_words(axes, dtype) for axes, dtype in taken)
        raise UsageError(
            f"a row of {name} is {has}; the program takes rows of {wants}, the first axis of its inputs being of examples. "
            f"Give such rows, or export the model anew."
        )


def _words(axes: tuple[int | None, ...], dtype: torch.dtype) -> str:
    """
    >>> _words((3, None), torch.float32), _words((), torch.int64)
    ('3 x any float32', 'one int64')
    """
    sizes = " x ".join("any" if n is None else str(n) for n in axes) or "one"
    return f"{sizes} {str(dtype).removeprefix('torch.')}"


def ask(loaded: LoadedModel, data: str) -> Callable[..., Any]:
    """The model, whose failure on a batch is a sentence about the rows.

    Args:
        loaded: The model.
        data: Where the rows are from.

    Raises:
        UsageError: by what is returned, when the model fails.
    """

    def answer(*inputs: Any) -> Any:  # Any: as LoadedModel
        try:
            return loaded(*inputs)
        except (HoldtrueError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the model is the user's
            tensors = [t for t in torch.utils._pytree.tree_leaves(inputs) if isinstance(t, torch.Tensor)]
            rows = ", ".join(
                f"{tuple(t.shape[1:])} of {str(t.dtype).removeprefix('torch.')}" for t in tensors
            )
            raise UsageError(
                f"the model fails on rows of {data}, whose shape is {rows}: {type(error).__name__}: "
                f"{first_line(error)}{place_of(error)}. Give rows such as it takes, or mend the model."
            ) from error

    return answer


def place_of(error: Exception) -> str:
    """File and line, in brackets, where it was raised in the user's own code."""
    frame = user_frame(error.__traceback__)
    return f" ({Path(frame.filename).name}, line {frame.lineno})" if frame is not None else ""


def load_model(
    name: str,
    *,
    weights: str | None = None,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - immutable
) -> LoadedModel:
    """The model that `name` says, on a device.

    Args:
        name: A Python file, with `:NAME` for a module, class or function in it (`model` by default); an
            exported program; a folder that transformers saved.
        weights: A safetensors file for a model from a Python file.
        device: Where it computes. An exported program moves with the constants and the devices that are written in it.

    Raises:
        UsageError: there is no such model, or the weights are not its own.
    """
    path, _, attribute = name.partition(":")
    kind = check_model_path(name)
    if kind == "python":
        return LoadedModel(module=_from_python(path, attribute or "model", weights).to(device))
    if weights is not None:
        raise UsageError(f"--weights is for a model from a Python file; {name} has its own. Leave it out.")
    return _from_program(path, device) if kind == "program" else _from_folder(path, device)


def _from_python(path: str, attribute: str, weights: str | None) -> torch.nn.Module:
    found = runpy.run_path(path, run_name="holdtrue_model").get(attribute)
    module = found if isinstance(found, torch.nn.Module) else found() if _is_maker(found) else None
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"{path} has no module, class or function {attribute!r} that gives a torch.nn.Module without arguments. "
            f"Name one as {path}:NAME."
        )
    if weights is not None:
        try:
            module.load_state_dict(safetensors.torch.load_file(weights))
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UsageError(
                f"the weights {weights} do not fit {attribute} of {path}: {reason[:300]}. Give its own."
            ) from error
    return module.eval()


def _is_maker(found: object) -> TypeGuard[Callable[[], Any]]:
    """Whether it can be called without arguments."""
    if not callable(found):
        return False
    try:
        inspect.signature(found).bind()
    except TypeError:
        return False
    except ValueError:  # it does not say
        return True
    return True


def _from_program(path: str, device: torch.device) -> LoadedModel:
    try:
        if not zipfile.is_zipfile(path):  # torch would write its own traceback
            raise ValueError("it is no archive, as torch.export.save writes them")
        program = torch.export.load(path)
    except Exception as error:  # whatever a file that is none makes it raise
        raise UsageError(
            f"{path} cannot be loaded as an exported program: {first_line(error)}. "
            f"Write it with torch.export.save, or holdtrue export."
        ) from error
    if device.type != "cpu":
        program = move_to_device_pass(program, device)
    inputs = set(program.graph_signature.user_inputs)
    values = [
        node.meta["val"]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in inputs and isinstance(node.meta["val"], torch.Tensor)
    ]
    shapes = tuple((tuple(n if isinstance(n, int) else None for n in v.shape), v.dtype) for v in values)
    if any(not axes for axes, _ in shapes):
        raise UsageError(
            f"{path} takes a single number where a batch is expected; the first axis of every input is of examples. "
            f"Export it with an axis of examples."
        )
    fixed = next((axes[0] for axes, _ in shapes if axes and axes[0] is not None), None)
    return LoadedModel(module=_Program(program.module()), pass_size=fixed, shapes=shapes)


class _Program(torch.nn.Module):
    """An exported program: it has one mode, and takes its inputs by position."""

    def __init__(self, program: torch.nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> Self:
        """Nothing: the mode was chosen when it was exported."""
        return self

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:  # Any: its outputs
        """What the program gives; named inputs come in the order of the data."""
        return self.program(*inputs, *named.values())


def _from_folder(path: str, device: torch.device) -> LoadedModel:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{path} is a transformers folder and transformers is not installed. Install the extra: holdtrue[transformers]."
        ) from error
    try:
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        kind = getattr(transformers, (config.architectures or ["AutoModel"])[0])
        module = kind.from_pretrained(path, local_files_only=True).eval().to(device)
    except (OSError, ValueError, AttributeError, KeyError, SafetensorError) as error:
        raise UsageError(
            f"{path} cannot be loaded as a transformers folder: {first_line(error)}. Write it with save_pretrained."
        ) from error

    tokenizers: list[Any] = []  # Any: transformers' own; loaded with the first text

    def tokenize(lines: list[str], length: int | None = None) -> Rows:
        # All at once: every pass has one shape, and an example's answer does not depend on its neighbours.
        if not tokenizers:
            try:
                tokenizers.append(transformers.AutoTokenizer.from_pretrained(path, local_files_only=True))
            except (OSError, ValueError, KeyError) as error:
                raise UsageError(
                    f"{path} has no tokenizer that can be loaded: {first_line(error)}. Save one there with save_pretrained, "
                    f"or give arrays of tokens."
                ) from error
        fill = "longest" if length is None else "max_length"
        found = tokenizers[0](lines, padding=fill, max_length=length, truncation=True, return_tensors="np")
        return Rows(dict(found))

    return LoadedModel(module=module, tokenize=tokenize)
