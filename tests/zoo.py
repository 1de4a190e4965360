"""Training scripts of the issue's models, each as a user would write it, and what they leave after every step.

    trace = train(Case(model="conv", optimizer="adamw", virtual_nodes=7))    # one worker's view

A script ends each step with `notes.after(step)`: loss, digest, the examples of each pass, forward calls.
Two runs hold true to each other if their losses and digests are equal after every step.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import holdtrue as ht
from holdtrue.reduce import GradientLayout
from zoo_models import (
    LENGTH,
    WORDS,
    Average,
    EarlyStopping,
    PartlyUsed,
    Recurrent,
    Ruled,
    SpectralRotary,
    ThreeDtypes,
    Transformer,
    conv_net,
    mlp,
)

SEED = 3
IGNORED = -100
Optimizers = list[Any]  # Any: optimizers and their schedulers
Loss = Callable[..., Tensor | tuple[Any, ...]]  # Any: a loss and its weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What one run computes. Pickles, so that a pool of processes can be sent it."""

    model: str
    optimizer: str = "sgd"
    virtual_nodes: int = 7
    epochs: int = 2
    numerics: str = "exact"
    bucket_bytes: int | None = None
    """Size of buckets; None leaves the product's own, which holds every tiny model in one bucket."""

    @property
    def batch(self) -> int:
        """B, never a multiple of V but for V = 1 and 3."""
        return 50 if self.model == "compiled" else 4 * self.virtual_nodes + 3

    @property
    def examples(self) -> int:
        """Two whole batches and a short one in which half of the virtual nodes are empty."""
        return 2 * self.batch + (0 if self.model == "compiled" else max(1, self.virtual_nodes // 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNote:
    """What one worker holds after one step."""

    index: int
    """The step's number in the run."""
    loss: str
    """As hexadecimal: a NaN equals itself."""
    digest: str
    passes: tuple[tuple[int, ...], ...]
    """Dataset indices of each of this worker's passes; of all rounds."""
    forwards: int
    """Forward calls of the model on this worker."""


@dataclass(slots=True, kw_only=True)
class Trace:
    """What one worker saw of a run."""

    steps: list[StepNote] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # Any: what a script adds


class Notes:
    """Takes notes of a run, step by step."""

    def __init__(self, run: ht.Run, model: nn.Module) -> None:
        self.trace = Trace()
        self._run = run
        self._passes: list[tuple[int, ...]] = []
        self._forwards = 0
        model.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self._forwards += 1

    def see(self, ids: Tensor) -> None:
        """A pass over these examples begins."""
        self._passes.append(tuple(ids.tolist()))

    def after(self, step: Any) -> None:
        """The step is done."""
        note = StepNote(
            index=step.index,
            loss=step.loss.hex(),
            digest=self._run.digest(),
            passes=tuple(self._passes),
            forwards=self._forwards,
        )
        self.trace.steps.append(note)
        self._passes, self._forwards = [], 0


# ---- data: the last column of a batch is the examples' own indices ----


def dataset(case: Case, *columns: Tensor) -> TensorDataset:
    """A dataset of these columns and the index of each example."""
    return TensorDataset(*columns, torch.arange(case.examples))


def vectors(case: Case, features: int) -> TensorDataset:
    """Noise with labels that follow from it."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(case.examples, features, generator=g)
    return dataset(case, x, x[:, :5].argmax(-1))


def images(case: Case) -> TensorDataset:
    """Images of 6 x 6."""
    g = torch.Generator().manual_seed(2)
    x = torch.randn(case.examples, 1, 6, 6, generator=g)
    return dataset(case, x, (x.mean((1, 2, 3)) * 9).long().clamp(-2, 2) + 2)


def sentences(case: Case) -> TensorDataset:
    """Words, each followed by a function of itself."""
    g = torch.Generator().manual_seed(3)
    words = torch.randint(WORDS, (case.examples, LENGTH), generator=g)
    return dataset(case, words, (words * 5 + 1) % WORDS)


# ---- optimizers ----


def optimizers_of(kind: str, parameters: Iterable[Any]) -> Optimizers:
    """Optimizers over parameters or parameter groups, each followed by its schedulers."""
    schedules = torch.optim.lr_scheduler
    if kind == "sgd":
        sgd = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3)
        return [sgd, schedules.StepLR(sgd, step_size=2, gamma=0.7)]
    if kind == "adamw":
        adamw = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)
        return [adamw, schedules.CosineAnnealingLR(adamw, T_max=8)]
    if kind == "adafactor":
        adafactor = torch.optim.Adafactor(parameters, lr=1e-2, weight_decay=0.01)
        return [adafactor, schedules.LinearLR(adafactor, start_factor=0.3, total_iters=4)]
    assert kind == "muon", kind
    groups = [g if isinstance(g, dict) else {"params": [g]} for g in parameters]
    everything = [p for g in groups for p in g["params"]]
    muon = torch.optim.Muon([p for p in everything if p.ndim == 2], lr=1e-2, weight_decay=0.1)
    rest = [p for p in everything if p.ndim != 2]
    return [muon, schedules.ExponentialLR(muon, 0.9), *(optimizers_of("adamw", rest) if rest else [])]


OPTIMIZERS = ("sgd", "adamw", "adafactor", "muon")


# ---- the loop ----


def pin_torch() -> None:
    """For plain loops: the kernels and threads that a run pins. Threads belong to the thread that asks for them."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def start(case: Case, **settings: Any) -> ht.Run:
    """Join the job, and make the model's first values the same in every run."""
    run = ht.init(
        virtual_nodes=case.virtual_nodes,
        global_batch_size=case.batch,
        seed=SEED,
        numerics=case.numerics,
        **settings,
    )  # type: ignore[arg-type]  # a level's name
    torch.manual_seed(0)
    return run


def fit(
    case: Case,
    run: ht.Run,
    model: nn.Module,
    data: Any,
    loss_of: Loss,
    *,
    parameters: Sequence[Any] | None = None,
    at_end: Callable[[Any], None] | None = None,
    extra: Sequence[Any] = (),
    drop_last: bool = False,
) -> Trace:
    """The loop of design section 7. `loss_of` gives a loss, or a loss and its weight."""
    run.prepare(model, *extra, *optimizers_of(case.optimizer, parameters or list(model.parameters())))
    notes = Notes(run, model)
    for step in run.steps(data, epochs=case.epochs, drop_last=drop_last):
        for *columns, ids in step:
            notes.see(ids)
            found = loss_of(*columns)
            if isinstance(found, Tensor):
                step.backward(found)
            else:
                step.backward(*found)
        step.update(max_grad_norm=1.0)
        if at_end is not None:
            at_end(step)
        notes.after(step)
    return notes.trace


def per_word(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy over words."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED)


# ---- the scripts ----


def conv(case: Case) -> Trace:
    run = start(case)
    model = conv_net()
    return fit(case, run, model, images(case), lambda x, y: F.cross_entropy(model(x), y))


def lstm(case: Case) -> Trace:
    run = start(case)
    model = Recurrent()
    return fit(case, run, model, sentences(case), lambda x, y: per_word(model(x), y))


def transformer(case: Case, **options: Any) -> Trace:
    run = start(case)
    model = Transformer(**options)
    return fit(case, run, model, sentences(case), lambda x, y: per_word(model(x), y))


def checkpointed(case: Case) -> Trace:
    return transformer(case, reentrant=False)


def checkpointed_reentrant(case: Case) -> Trace:
    return transformer(case, reentrant=True)


def buffers(case: Case) -> Trace:
    run = start(case)
    model = SpectralRotary()
    before = model.body.first.angles.clone()
    trace = fit(case, run, model, sentences(case), lambda x, y: per_word(model(x), y))
    trace.facts["rotary is untouched"] = torch.equal(before, model.body.first.angles)
    return trace


def ruled(case: Case) -> Trace:
    run = start(case, buffers={rule: rule for rule in Ruled.RULES})
    model = Ruled()
    return fit(case, run, model, vectors(case, 10), lambda x, y: F.cross_entropy(model(x), y))


def partly_used(case: Case) -> Trace:
    run = start(case)
    model = PartlyUsed()
    trace = fit(case, run, model, vectors(case, 11), lambda x, y: F.cross_entropy(model(x), y))
    trace.facts["never"] = model.never.tolist()
    return trace


def frozen(case: Case) -> Trace:
    """The first layer is frozen, and thawed in mid-run."""
    run = start(case)
    model = mlp(10)
    model[0].requires_grad_(False)

    def thaw(step: Any) -> None:
        if step.index == 2:
            model[0].requires_grad_(True)

    return fit(case, run, model, vectors(case, 10), lambda x, y: F.cross_entropy(model(x), y), at_end=thaw)


def groups(case: Case) -> Trace:
    run = start(case)
    model = mlp(20)
    parts = [
        {"params": [p for p in model.parameters() if p.ndim == 2], "weight_decay": 0.2},
        {"params": [p for p in model.parameters() if p.ndim != 2], "weight_decay": 0.0, "lr": 0.02},
    ]
    return fit(
        case, run, model, vectors(case, 20), lambda x, y: F.cross_entropy(model(x), y), parameters=parts
    )


def features(case: Case, count: int) -> Trace:
    run = start(case)
    model = mlp(count)
    return fit(case, run, model, vectors(case, count), lambda x, y: F.cross_entropy(model(x), y))


def features_30(case: Case) -> Trace:
    return features(case, 30)


def features_33(case: Case) -> Trace:
    return features(case, 33)


def features_50(case: Case) -> Trace:
    return features(case, 50)


def half(case: Case) -> Trace:
    """Parameters in bfloat16."""
    run = start(case)
    model = mlp(12).to(torch.bfloat16)
    return fit(
        case, run, model, vectors(case, 12), lambda x, y: F.cross_entropy(model(x.bfloat16()).float(), y)
    )


def dtypes(case: Case) -> Trace:
    """Parameters in three dtypes."""
    run = start(case)
    model = ThreeDtypes()
    return fit(case, run, model, vectors(case, 9), lambda x, y: F.cross_entropy(model(x), y))


def autocast(case: Case) -> Trace:
    run = start(case)
    model = Transformer()

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return per_word(model(x), y)

    return fit(case, run, model, sentences(case), loss_of)


def autocast_around(case: Case) -> Trace:
    """One autocast context around the whole loop."""
    run = start(case)
    model = Transformer()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return fit(case, run, model, sentences(case), lambda x, y: per_word(model(x), y))


def scaler(case: Case) -> Trace:
    """Autocast to float16 with a loss scale whose first step overflows."""
    run = start(case)
    model = mlp(14)
    scale = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-117, growth_interval=2)
    weight = next(model.parameters())
    before = weight.detach().clone()
    overflows: list[int] = []

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            return F.cross_entropy(model(x), y)

    def look(step: Any) -> None:
        if torch.equal(weight, before):
            overflows.append(step.index)
        before.copy_(weight.detach())

    trace = fit(case, run, model, vectors(case, 14), loss_of, at_end=look, extra=[scale])
    trace.facts["overflows"] = overflows
    return trace


def tokens(case: Case) -> Trace:
    """Passes weigh as many words as are not padding; passes of weight 0 are among them."""
    run = start(case)
    model = Recurrent()
    words, targets, ids = sentences(case).tensors
    kept = (ids * 5) % (LENGTH + 1)
    targets = targets.masked_fill(torch.arange(LENGTH) >= kept[:, None], IGNORED)
    targets[(ids % case.batch) < min(6, case.batch // 2)] = (
        IGNORED  # virtual node 0 weighs nothing, but for V = 1
    )

    def loss_of(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return per_word(model(x), y), (y != IGNORED).sum()

    data = torch.utils.data.DataLoader(TensorDataset(words, targets, ids), shuffle=False)
    return fit(case, run, model, data, loss_of)


def gan(case: Case) -> Trace:
    """Two models, two optimizers, two rounds a step."""
    run = start(case)
    maker, judge = nn.Linear(4, 10), nn.Sequential(nn.Linear(10, 8), nn.LeakyReLU(), nn.Linear(8, 1))
    for_maker = optimizers_of(case.optimizer, maker.parameters())
    for_judge = optimizers_of(case.optimizer, judge.parameters())
    run.prepare(maker, judge, *for_maker, *for_judge)
    of_maker, of_judge = (
        [o for o in found if isinstance(o, torch.optim.Optimizer)] for found in (for_maker, for_judge)
    )
    notes = Notes(run, maker)
    for step in run.steps(vectors(case, 10), epochs=case.epochs, drop_last=False):
        for x, _, ids in step:
            notes.see(ids)
            fake = maker(torch.randn(len(x), 4)).detach()
            step.backward(F.softplus(-judge(x)).mean() + F.softplus(judge(fake)).mean())
        step.update(*of_judge, max_grad_norm=1.0)
        for x, _, ids in step:
            notes.see(ids)
            step.backward(F.softplus(-judge(maker(torch.randn(len(x), 4)))).mean())
        step.update(*of_maker, max_grad_norm=1.0)
        notes.after(step)
    return notes.trace


def average(case: Case) -> Trace:
    """An EMA and early stopping, registered; the stop is agreed by all workers."""
    run = start(case)
    model = conv_net()
    mean, stopping = Average(model), EarlyStopping(patience=2)
    run.register("ema", mean)
    run.register("early", stopping)

    def follow(step: Any) -> None:
        mean.follow(model)
        if stopping.is_over(step.loss):
            run.stop("the loss does not fall any more")

    return fit(case, run, model, images(case), lambda x, y: F.cross_entropy(model(x), y), at_end=follow)


def compiled(case: Case) -> Trace:
    """torch.compile with two shapes of passes: B = 50."""
    run = start(case)
    model = nn.Sequential()
    model.append(torch.compile(mlp(33)))  # type: ignore[arg-type]  # a module it is
    # the hook that counts stays outside of what is compiled
    data = vectors(case, 33)
    return fit(case, run, model, data, lambda x, y: F.cross_entropy(model(x), y), drop_last=True)


SCRIPTS: dict[str, Callable[[Case], Trace]] = {
    script.__name__: script
    for script in (
        conv,
        lstm,
        transformer,
        checkpointed,
        checkpointed_reentrant,
        buffers,
        ruled,
        partly_used,
        frozen,
        groups,
        features_30,
        features_33,
        features_50,
        half,
        dtypes,
        autocast,
        autocast_around,
        scaler,
        tokens,
        gan,
        average,
        compiled,
    )
}
MODELS = tuple(name for name in SCRIPTS if name != "compiled")
"""All that run in milliseconds."""


@contextlib.contextmanager
def small_buckets(size: int | None) -> Iterator[None]:
    """Make the product's buckets as small as one parameter, so that several leave one after another."""
    build = GradientLayout.build.__func__  # type: ignore[attr-defined]  # a classmethod has it
    usual = build.__defaults__
    try:
        build.__defaults__ = usual if size is None else (size,)
        yield
    finally:
        build.__defaults__ = usual


def train(case: Case) -> Trace:
    """Run the case's script as this worker."""
    with small_buckets(case.bucket_bytes):
        return SCRIPTS[case.model](case)
