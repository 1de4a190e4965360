"""The training state: everything that decides how the run goes on, under names that no device changes.

    weights/NAME   buffers/NAME   optimizer/I/...   scheduler/I/...   scaler/I/...   registered/NAME/...

Models come in the order of `prepare`; with one model its own names are used, with several a name
starts with the model's index.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch.nn.parameter import is_lazy

from holdtrue.errors import CheckpointError, NumericsError, UsageError

from ._digest import digest_entries, flatten_state
from ._streams import export_user_streams, import_user_streams

Optimizer = torch.optim.Optimizer
Scheduler = torch.optim.lr_scheduler.LRScheduler


@runtime_checkable
class Stateful(Protocol):
    """What `run.register` takes: an object whose state can be read and put back."""

    def state_dict(self) -> dict[str, Any]: ...  # Any: values of torch.save(weights_only)
    def load_state_dict(self, state: Any, /) -> Any: ...


class _GeneratorState:
    """A `torch.Generator` as something with a state_dict."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def state_dict(self) -> dict[str, Any]:
        return {"state": self._generator.get_state()}

    def load_state_dict(self, state: Any) -> None:
        self._generator.set_state(state["state"])


class TrainingState:
    """The registered objects of a run on one worker, and their state by name."""

    def __init__(self) -> None:
        self.models: list[torch.nn.Module] = []
        self.optimizers: list[Optimizer] = []
        self.schedulers: list[Scheduler] = []
        self.scalers: list[torch.amp.GradScaler] = []
        self.registered: dict[str, Stateful] = {}

    def prepare(self, obj: object, device: torch.device) -> None:
        """Take one object of `run.prepare`: move a model to the device, file the rest under their kind.

        Raises:
            UsageError: the object is none of these, or comes twice.
            NumericsError: the model has a layer that needs all virtual nodes at once, or sparse gradients.
        """
        kinds: tuple[tuple[type, list[Any]], ...] = (  # Any: lists of unlike objects
            (torch.nn.Module, self.models),
            (Optimizer, self.optimizers),
            (Scheduler, self.schedulers),
            (torch.amp.GradScaler, self.scalers),
        )
        shelf = next((shelf for kind, shelf in kinds if isinstance(obj, kind)), None)
        if shelf is None:
            raise UsageError(
                f"prepare was given a {type(obj).__name__}; it takes models, optimizers, schedulers and gradient scalers. "
                f"Pass a data set to run.steps, and anything else with state_dict to run.register(name, obj)."
            )
        if any(obj is known for known in shelf):
            raise UsageError(
                f"prepare was given the same {type(obj).__name__} twice; each object is prepared once. Leave it out here."
            )
        if isinstance(obj, torch.nn.Module):
            _refuse_layers(obj)
            obj.to(device)
        if isinstance(obj, Optimizer) and (isinstance(obj, torch.optim.LBFGS) or _needs_closure(obj)):
            raise UsageError(
                f"prepare was given {type(obj).__name__}; it evaluates the loss in its update, and a step has its gradient "
                f"reduced once. Use an optimizer whose step() needs no closure."
            )
        shelf.append(obj)

    def register(self, name: str, obj: object) -> None:
        """Take one object of `run.register`."""
        if name in self.registered:
            raise UsageError(
                f"{name!r} is registered already; every registered object has a name of its own. Choose another."
            )
        if isinstance(obj, torch.Generator):
            obj = _GeneratorState(obj)
        if not isinstance(obj, Stateful):
            raise UsageError(
                f"register({name!r}, ...) was given a {type(obj).__name__} without state_dict and load_state_dict; they are how "
                f"its state reaches checkpoints and new workers. Give it these two methods."
            )
        self.registered[name] = obj

    def check_complete(self) -> None:
        """Refuse to start steps with optimizers that the models do not explain.

        Raises:
            UsageError: no model or optimizer, or an optimizer over parameters that no prepared model has.
        """
        if not self.models or not self.optimizers:
            missing = "a model" if not self.models else "an optimizer"
            raise UsageError(
                f"run.steps was called before {missing} was prepared; a step trains a model through an optimizer. "
                f"Call model, optimizer = run.prepare(model, optimizer) first."
            )
        for name, p in self.named_parameters():
            if is_lazy(p):
                raise UsageError(
                    f"parameter {name!r} of a lazy module has no shape yet; workers start from equal parameters. Call the model "
                    f"once with a batch before run.steps, and give it to the optimizer after that."
                )
        known = {id(p) for _, p in self.named_parameters()}
        for index, optimizer in enumerate(self.optimizers):
            strangers = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in known]
            if strangers:
                shapes = ", ".join(str(tuple(p.shape)) for p in strangers[:3])
                raise UsageError(
                    f"optimizer {index} ({type(optimizer).__name__}) has {len(strangers)} parameter(s) of shape {shapes} that no "
                    f"prepared model has; they would be updated without being reduced. Prepare the model that owns them, in "
                    f"the same call, and build the optimizer from its parameters."
                )

    def named_models(self) -> dict[str, torch.nn.Module]:
        """Models by prefix: the empty prefix for one model, the index for several."""
        if len(self.models) == 1:
            return {"": self.models[0]}
        return {str(i): model for i, model in enumerate(self.models)}

    def named_modules(self) -> dict[str, torch.nn.Module]:
        """Models by prefix, and registered modules, such as a teacher or an average: passes may run them too."""
        registered = {
            f"registered.{n}": o for n, o in self.registered.items() if isinstance(o, torch.nn.Module)
        }
        return self.named_models() | registered

    def named_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Every parameter once, in the order of models and modules."""
        return _once((prefix, model.named_parameters()) for prefix, model in self.named_models().items())

    def named_buffers(self) -> list[tuple[str, torch.Tensor]]:
        """Every buffer once, those outside the state_dict included."""
        return _once((prefix, model.named_buffers()) for prefix, model in self.named_models().items())

    def entries(
        self, position: Mapping[str, int], *, what: str = "all"
    ) -> dict[str, Any]:  # Any: leaves of flatten_state
        """The training state by entry name.

        Args:
            position: Where the run is.
            what: `"weights"` for parameters and buffers alone.
        """
        parameters = self.named_parameters()
        entries: dict[str, Any] = {f"weights/{name}": p.detach() for name, p in parameters}
        entries |= {f"buffers/{name}": b.detach() for name, b in self.named_buffers()}
        if what == "weights":
            return entries
        names = {id(p): name for name, p in parameters}
        for i, optimizer in enumerate(self.optimizers):
            for parameter, state in optimizer.state.items():
                _file(entries, f"optimizer/{i}/{names.get(id(parameter), '?')}", state)
            for g, group in enumerate(optimizer.param_groups):
                _file(entries, f"optimizer/{i}/group/{g}", {k: v for k, v in group.items() if k != "params"})
        for i, scheduler in enumerate(self.schedulers):
            _file(entries, f"scheduler/{i}", scheduler.state_dict())
        for i, scaler in enumerate(self.scalers):
            _file(entries, f"scaler/{i}", scaler.state_dict())
        for name, obj in self.registered.items():
            _file(entries, f"registered/{name}", _digested(obj))
        _file(entries, "position", dict(position))
        return entries

    def digest(self, position: Mapping[str, int], *, what: str = "all") -> tuple[str, dict[str, str]]:
        """SHA-256 of the training state (64 hex), and of each entry (16 hex)."""
        return digest_entries(self.entries(position, what=what))

    def weights(self) -> dict[str, dict[str, torch.Tensor]]:
        """State dict of each model by file stem: `model`, or `model-0`, `model-1`, ..."""
        stems = ["model"] if len(self.models) == 1 else [f"model-{i}" for i in range(len(self.models))]
        return {stem: _plain(model).state_dict() for stem, model in zip(stems, self.models, strict=True)}

    def capture(self) -> dict[str, Any]:  # Any: values of torch.save(weights_only)
        """Everything but the weights, as values for a checkpoint."""
        return {
            "buffers": {name: b.detach().clone() for name, b in self.named_buffers()},
            "optimizers": [o.state_dict() for o in self.optimizers],
            "schedulers": [s.state_dict() for s in self.schedulers],
            "scalers": [s.state_dict() for s in self.scalers],
            "registered": {name: obj.state_dict() for name, obj in self.registered.items()},
            "streams": export_user_streams(),
            "frozen": [name for name, p in self.named_parameters() if not p.requires_grad],
        }

    def restore(self, weights: Mapping[str, Mapping[str, torch.Tensor]], state: Mapping[str, Any]) -> None:
        """Put a checkpoint's state into the registered objects.

        Raises:
            CheckpointError: the checkpoint has other models or objects than the script has registered.
        """
        for what, have, saved in (
            ("model(s)", list(self.weights()), list(weights)),
            ("optimizer(s)", len(self.optimizers), len(state["optimizers"])),
            ("scheduler(s)", len(self.schedulers), len(state["schedulers"])),
            ("gradient scaler(s)", len(self.scalers), len(state["scalers"])),
            ("registered object(s)", sorted(self.registered), sorted(state["registered"])),
        ):
            if have != saved:
                raise CheckpointError(
                    f"the checkpoint has {what} {saved} and the script prepared {have}; a run goes on with the script that "
                    f"began it. Start a new run in another --run-dir, or put the script back."
                )
        for model, saved_weights in zip(self.models, weights.values(), strict=True):
            try:
                _plain(model).load_state_dict(saved_weights)
            except RuntimeError as error:
                raise CheckpointError(
                    f"the checkpoint does not fit the model of the script: {error}"
                ) from error
        self._restore_buffers(state["buffers"])
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(
                name not in state["frozen"]
            )  # the script may thaw in a loop that is over
        pairs: list[tuple[Any, Any]] = [
            *zip(self.optimizers, state["optimizers"], strict=True),
            *zip(self.schedulers, state["schedulers"], strict=True),
            *zip(self.scalers, state["scalers"], strict=True),
            *((self.registered[name], saved) for name, saved in state["registered"].items()),
        ]
        for obj, saved in pairs:
            try:
                obj.load_state_dict(saved)
            except (KeyError, RuntimeError, ValueError) as error:
                if not isinstance(obj, Optimizer | Scheduler | torch.nn.Module):
                    raise  # the script's own, with its traceback
                raise CheckpointError(
                    f"the checkpoint does not fit the {type(obj).__name__} of the script: {error}; what a loop over steps "
                    f"adds or replaces is not there when it goes on. Put layers and parameter groups in place before "
                    f"run.steps, or between two loops."
                ) from error
        import_user_streams(state["streams"])

    def _restore_buffers(self, saved: Mapping[str, torch.Tensor]) -> None:
        present = dict(self.named_buffers())
        for name, value in saved.items():
            if name in present and present[name].shape == value.shape:
                present[name].copy_(value)
                continue
            for prefix, model in self.named_models().items():
                if prefix and not name.startswith(f"{prefix}."):
                    continue
                path, _, key = name.removeprefix(f"{prefix}." if prefix else "").rpartition(".")
                owner = _plain(model).get_submodule(path)
                near = next((t.device for m in (owner, model) for t in m.parameters()), value.device)
                owner._buffers[key] = value.to(near)
                break


def _digested(obj: Stateful) -> dict[str, Any]:  # Any: values of torch.save(weights_only)
    """What of a registered object is in the digest: all of its state, unless it says otherwise by `digested_state`."""
    own: Callable[[], dict[str, Any]] = getattr(obj, "digested_state", obj.state_dict)
    return own()


def _plain(model: torch.nn.Module) -> torch.nn.Module:
    """The module itself, without the wrapper of torch.compile."""
    inner = getattr(model, "_orig_mod", model)
    assert isinstance(inner, torch.nn.Module)
    return inner


def _once(
    named: Iterable[tuple[str, Iterable[tuple[str, Any]]]],
) -> list[tuple[str, Any]]:  # Any: parameters or buffers
    seen: set[int] = set()
    found = []
    for prefix, items in named:
        for name, tensor in items:
            if id(tensor) not in seen:
                seen.add(id(tensor))
                clean = name.replace("_orig_mod.", "")
                found.append((f"{prefix}.{clean}" if prefix else clean, tensor))
    return found


def _file(entries: dict[str, Any], prefix: str, value: Any) -> None:  # Any: see flatten_state
    for path, leaf in flatten_state(value):
        entries[f"{prefix}/{path}" if path else prefix] = leaf


def _needs_closure(optimizer: Optimizer) -> bool:
    _, *others = inspect.signature(
        type(optimizer).step
    ).parameters.values()  # schedulers wrap the optimizer's own
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(p.default is p.empty and p.kind in named for p in others)


def _refuse_layers(model: torch.nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise UsageError(
                f"{name!r} lies on the meta device, where it has no values; a model is prepared with those that training starts "
                f"from. Call model.to_empty(device='cpu') and initialise or load it before run.prepare."
            )
    for path, module in model.named_modules():
        name = path or type(module).__name__
        if isinstance(module, torch.nn.SyncBatchNorm):
            raise NumericsError(
                f"module {name!r} is SyncBatchNorm; it needs all virtual nodes at once in forward, and they run one after "
                f"another. Use BatchNorm: holdtrue already averages its running statistics over all virtual nodes. For batch "
                f"statistics over more examples, use fewer virtual nodes."
            )
        if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag) and module.sparse:
            raise NumericsError(
                f"module {name!r} has sparse gradients; the reduction adds dense ones. Build it with sparse=False."
            )
