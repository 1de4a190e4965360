"""Training and inference scripts over awkward data sources, for threads and for processes."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

import holdtrue as ht
from zoo import SEED, Notes, Trace
from zoo_models import mlp

EXAMPLES = 67


class Augmented(Dataset[tuple[Tensor, int, int]]):
    """Noise added by every generator that a dataset may draw from."""

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        x = torch.linspace(-1, 1, 12) * (index % 5) + 0.1 * torch.randn(12)
        if random.random() < 0.5:
            x = x.flip(0)
        return x + float(np.random.normal(0, 0.1)), index % 5, index


class Alternating:
    """A sampler of the user's own: every other example, drawn anew each epoch."""

    def __iter__(self) -> Any:
        return iter(torch.randperm(EXAMPLES)[: EXAMPLES // 2].tolist())

    def __len__(self) -> int:
        return EXAMPLES // 2


def mixed(examples: list[tuple[Tensor, int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """A collate_fn that draws too (mixup) and gives a view."""
    x = torch.stack([e[0] for e in examples])
    x = torch.cat([x, x], 1)[:, 6:18].lerp(x.flip(0), random.random() * 0.3)
    return x, torch.tensor([e[1] for e in examples]), torch.tensor([e[2] for e in examples])


def weighted() -> WeightedRandomSampler:
    return WeightedRandomSampler([1.0 + i % 3 for i in range(EXAMPLES)], num_samples=50)


SOURCES: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "dataset": lambda: (Augmented(), {}),
    "dataset with collate_fn": lambda: (Augmented(), {"collate_fn": mixed}),
    "loader": lambda: (DataLoader(Augmented(), batch_size=4, shuffle=True), {}),
    "loader with sampler": lambda: (DataLoader(Augmented(), sampler=Alternating()), {}),
    "loader with torch's sampler and collate_fn": lambda: (
        DataLoader(Augmented(), sampler=weighted(), collate_fn=mixed),
        {},
    ),
}


def train_on(source: str, workers: int = 0, own_workers: int = 0) -> Trace:
    """Train two epochs on a source, with a short last batch."""
    run = ht.init(virtual_nodes=7, global_batch_size=31, seed=SEED)
    torch.manual_seed(0)
    model = mlp(12)
    run.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    data, options = SOURCES[source]()
    if own_workers:
        data = DataLoader(
            data.dataset, sampler=data.sampler, collate_fn=data.collate_fn, num_workers=own_workers
        )
    notes = Notes(run, model)
    user_draws: list[float] = []
    for step in run.steps(data, epochs=2, drop_last=False, num_workers=workers, **options):
        for x, y, ids in step:
            notes.see(ids)
            step.backward(F.cross_entropy(model(x), y))
        step.update()
        user_draws.append(float(torch.rand(())) + random.random() + float(np.random.random()))
        notes.after(step)
    notes.trace.facts["the user's own draws"] = user_draws
    return notes.trace


# ---- evaluate and predict ----

INPUTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(5))
Numbers = tuple[list[dict[str, float]], list[Tensor], list[list[int]], list[list[int]]]


def infer(virtual_nodes: int, sizes: tuple[int, ...], batch_size: int | None) -> Numbers:
    """Evaluate and predict data sets of these sizes; what came out, and which examples this worker read."""
    run = ht.init(virtual_nodes=virtual_nodes, global_batch_size=3 * virtual_nodes + 1, seed=SEED)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Dropout(0.5), nn.Linear(9, 3))
    run.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    scores, outputs, evaluated, predicted = [], [], [], []
    for size in sizes:
        data = TensorDataset(INPUTS[:size], torch.arange(size))
        read: list[int] = []

        def score(x: Tensor, ids: Tensor, read: list[int] = read) -> dict[str, Any]:
            read.extend(ids.tolist())
            noise = torch.rand(())  # each pass has a stream of its own
            odd = (ids % 2 == 1).float()
            heavy = (ids.float().mean(), ids.sum() + 1.0)
            return {"loss": model(x).square().mean() + noise, "odd": odd.mean(), "heavy": heavy}

        scores.append(run.evaluate(score, data, batch_size=batch_size))
        evaluated.append(read)
        read = []

        def guess(x: Tensor, ids: Tensor, read: list[int] = read) -> Tensor:
            read.extend(ids.tolist())
            return torch.cat([ids[:, None].float(), model(x)], 1)

        outputs.append(run.predict(guess, data, batch_size=batch_size))
        predicted.append(read)
        assert model.training, "modes are put back"
    return scores, outputs, evaluated, predicted
