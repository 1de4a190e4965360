"""`python -m holdtrue.inference serve-worker`: one worker of a server. It takes passes from a socket until that ends."""

import socket
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch

from holdtrue.engine import apply_numerics
from holdtrue.errors import HoldtrueError, UsageError
from holdtrue.serving import DTYPES, ArraySpec, ExampleSpec, Frame, take_frame, write_frame

from ._data import load_data
from ._models import LoadedModel, check_row, first_line, load_model, place_of
from ._positions import (
    Example,
    Outputs,
    agreeing_positions,
    bits_of,
    lay_out,
    name_outputs,
    vary,
)

_TRIAL_TEXTS = (
    "one",
    "a longer text, with more words in it than the first",
    "",
    "zwei drei vier",
    "The quick brown fox jumps over the lazy dog, and nobody asks why it does so every time.",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What the server tells a worker on its command line."""

    model: str
    weights: str | None
    example: str | None
    tokens: int
    pass_size: int
    numerics: Literal["exact", "fast"]
    threads: int
    device: str
    audit_every: int


def serve_worker(line: socket.socket, options: WorkerOptions) -> int:
    """Load the model, try the positions out, and compute passes.

    Returns:
        The exit status.

    Blocks:
        Until the server ends, or says so.
    """
    try:
        apply_numerics(options.numerics, threads=options.threads)
        worker = PassWorker(options)
        hello = worker.hello()
    except Exception as error:  # noqa: BLE001 - the edge of the process: said to the server, and it ends
        traceback.print_exc()
        sentence = (
            str(error)
            if isinstance(error, HoldtrueError)
            else (
                f"the model {options.model} cannot be served: {type(error).__name__}: {error}. "
                f"The worker's log has where."
            )
        )
        write_frame(line, Frame(head={"refused": sentence, "is_wrong_use": isinstance(error, ValueError)}))
        return 2
    write_frame(line, Frame(head=hello))
    while (frame := take_frame(line)) is not None and frame.head.get("do") == "pass":
        write_frame(line, worker.answer(frame))
    return 0


@final
class PassWorker:
    """A model on a device, and its passes of one shape.

    Raises:
        UsageError: it cannot be known what an example looks like, or the model does not take it.
    """

    def __init__(self, options: WorkerOptions) -> None:
        """Load the model and find the positions that agree."""
        self._options = options
        self._device = torch.device(options.device)
        if self._device.type == "cuda":
            torch.cuda.set_device(
                self._device
            )  # random streams and what a model makes by itself belong to it
        self._model = load_model(options.model, weights=options.weights, device=self._device)
        self.size = self._model.pass_size or options.pass_size
        self.spec, variants = self._examples()
        self._check_taken(variants[0])
        self.positions = tuple(range(self.size))
        self.sentence = f"passes of up to {self.size}"
        if options.numerics == "exact":
            self._try_positions(variants)
        started_s = time.perf_counter()
        self.compute(lay_out(variants[:1], (0,), self.size))
        self.seconds = time.perf_counter() - started_s
        self._passes = 0

    def _check_taken(self, example: Example) -> None:
        """Whether the model takes what it is to be asked.

        Raises:
            UsageError: it fails on it.
        """
        try:
            self.compute(lay_out([example], (0,), self.size))
        except (HoldtrueError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the model is the user's
            shown = self._options.example or "an example as the model says that it takes them"
            shapes = ", ".join(f"{a.shape} of {a.dtype}" for a in self.spec.arrays.values()) or "text"
            raise UsageError(
                f"the model {self._options.model} cannot be served: it fails on {shown} ({shapes}): {type(error).__name__}: "
                f"{first_line(error)}{place_of(error)}. Give an --example that it takes, or mend the model."
            ) from error

    def hello(self) -> dict[str, Any]:  # Any: JSON values
        """What the server is told first."""
        return {
            "spec": self.spec.to_dict(),
            "size": self.size,
            "positions": list(self.positions),
            "sentence": self.sentence,
            "device": str(self._device),
            "seconds": self.seconds,
        }

    def compute(self, inputs: Example) -> Outputs:
        """Outputs of a pass. A model that draws random numbers draws the same in every pass."""
        size = len(next(iter(inputs.values())))
        torch.default_generator.manual_seed(0)
        if self._device.type == "cuda":
            torch.cuda.manual_seed(0)
        moved = {name: value.to(self._device) for name, value in inputs.items()}
        with torch.no_grad():
            found = self._model(moved if self.spec.kind != "array" else moved["input"])
        return name_outputs(found, size)

    def answer(self, frame: Frame) -> Frame:
        """The answer to a pass that the server sent."""
        started_s = time.perf_counter()
        positions = [int(p) for p in frame.head["positions"]]
        examples = self._read(frame)
        errors: dict[int, str] = {}
        audit = None
        self._passes += 1
        try:
            found = self._run(examples, positions)
            if self._is_audit_due():
                audit, found, errors = self._audit(examples, positions, found)
        except Exception as error:  # noqa: BLE001 - the model is the user's: its error is the answer
            # One example can spoil a pass: each gets one of its own. Its bits do not depend on that.
            print(f"a pass of {len(examples)} examples failed: {error!r}", file=sys.stderr, flush=True)
            found, errors = self._run_alone(examples)
        head = {
            "pass": frame.head["pass"],
            "seconds": time.perf_counter() - started_s,
            "errors": {str(i): sentence for i, sentence in errors.items()},
            "audit": audit,
        }
        return Frame(
            head=head, arrays={n: np.stack([o[n] for o in found]) for n in (found[0] if found else {})}
        )

    def _run(self, examples: Sequence[Example], positions: Sequence[int]) -> list[dict[str, Any]]:
        """Outputs of each example, as arrays by name."""
        if self._options.numerics == "fast" and self._model.pass_size is None:
            positions, size = range(len(examples)), len(examples)
        else:
            size = self.size
        outputs = self.compute(lay_out(examples, positions, size))
        where = list(positions)[: len(examples)]
        return [{name: value[p].numpy() for name, value in outputs.items()} for p in where]

    def _run_alone(self, examples: Sequence[Example]) -> tuple[list[dict[str, Any]], dict[int, str]]:
        found: list[dict[str, Any]] = []
        errors: dict[int, str] = {}
        for i, example in enumerate(examples):
            try:
                found += self._run([example], (0,))
            except Exception as error:  # noqa: BLE001 - as above
                first = (str(error).splitlines() or [""])[0][:300]
                errors[i] = (
                    f"the model failed on this example alone: {type(error).__name__}: {first}. Send one that it takes."
                )
        return found, errors

    def _is_audit_due(self) -> bool:
        every = self._options.audit_every
        return self._options.numerics == "exact" and every > 0 and self._passes % every == 0

    def _audit(
        self, examples: Sequence[Example], positions: Sequence[int], found: list[dict[str, Any]]
    ) -> tuple[str | None, list[dict[str, Any]], dict[int, str]]:
        """Compute a pass again with every example elsewhere; where bits differ, those of position 0 alone count.

        Returns:
            What came out, the outputs that count, and by place the sentences of examples that fail alone.
        """
        if len(positions) < 2:
            return None, found, {}
        last = len(positions) - 1
        turned = [examples[(i + 1) % len(examples)] for i in range(len(examples))]
        moved = [positions[last - i] for i in range(len(examples))]
        again = self._run(turned, moved)
        n = len(examples)
        if all(_bits(again[(i - 1) % n]) == _bits(found[i]) for i in range(n)):
            return "equal", found, {}
        return "differs", *self._run_alone(examples)

    def _try_positions(self, variants: list[Example]) -> None:
        self.positions = agreeing_positions(self.compute, variants, self.size)
        self.sentence = f"passes of {self.size}, every position with the same bits"
        if not self.positions:
            if self._model.pass_size is not None:
                raise UsageError(
                    f"the model mixes the {self.size} examples of a pass: an answer depends on its neighbours, and the program "
                    f"takes no other number. Export it for any number of examples, or serve it with --numerics fast."
                )
            self.sentence = f"passes of 1: in passes of {self.size} an answer depends on its neighbours (examples are mixed)"
            self.size, self.positions = 1, (0,)
        elif len(self.positions) < self.size:
            rest = sorted(set(range(self.size)) - set(self.positions))
            self.sentence = (
                f"passes of {self.size}, of which {len(self.positions)} positions are used: "
                f"{', '.join(map(str, rest[:16]))} give other bits than position 0"
            )

    def _read(self, frame: Frame) -> list[Example]:
        if self.spec.kind == "text":
            return self._tokens([str(text) for text in frame.head["texts"]])
        count = len(next(iter(frame.arrays.values())))
        return [{name: torch.from_numpy(a[i]) for name, a in frame.arrays.items()} for i in range(count)]

    def _tokens(self, texts: list[str]) -> list[Example]:
        assert self._model.tokenize is not None
        rows = self._model.tokenize(texts, self._options.tokens)
        return [rows[i] for i in range(len(rows))]

    def _examples(self) -> tuple[ExampleSpec, list[Example]]:
        """What an example looks like, and some to try."""
        if self._options.example is not None:
            row = _first_row(self._options.example)
            if isinstance(row, str):
                raise UsageError(
                    f"--example {self._options.example} is text; a model of texts needs none. Leave it out."
                )
            check_row(self._model, row, self._options.example)
        elif self._model.tokenize is not None:
            variants = self._tokens(list(_TRIAL_TEXTS))
            return ExampleSpec(kind="text", arrays={}), variants
        else:
            row = _row_of_program(self._model, self._options.model)
        named = row if isinstance(row, dict) else {"input": row}
        arrays = {
            name: ArraySpec(shape=tuple(value.shape), dtype=str(value.dtype).removeprefix("torch."))
            for name, value in named.items()
        }
        _check_that_inputs_travel(arrays)
        return ExampleSpec(kind="arrays" if isinstance(row, dict) else "array", arrays=arrays), vary(named)


def _check_that_inputs_travel(arrays: dict[str, ArraySpec]) -> None:
    for name, array in arrays.items():
        if array.dtype not in DTYPES:
            raise UsageError(
                f"the model's {name} is of {array.dtype}; a server takes {', '.join(DTYPES)}. Let the model take one of them, "
                f"and convert it itself."
            )


def _bits(outputs: dict[str, Any]) -> bytes:
    return bits_of({name: torch.from_numpy(np.array(value))[None] for name, value in outputs.items()}, 0)


def _first_row(example: str) -> Any:  # Any: a tensor, tensors by name, or a text
    rows = load_data(example)
    return rows[0]


def _row_of_program(model: LoadedModel, name: str) -> Any:  # Any: a tensor, or tensors by name
    shapes = model.shapes or ()
    if not shapes or any(n is None for axes, _ in shapes for n in axes[1:]):
        raise UsageError(
            f"{name} does not say what one example looks like; a server has passes of one shape. "
            f"Give --example DATA, a file such as holdtrue predict takes, of which the first row is looked at."
        )
    rows = [torch.zeros([n for n in axes[1:] if n is not None], dtype=dtype) for axes, dtype in shapes]
    return rows[0] if len(rows) == 1 else {f"input_{i}": row for i, row in enumerate(rows)}
