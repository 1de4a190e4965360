"""Small trainings that cover what portable numerics must: run as a script, prints one digest for each.

    python tests/numerics_models.py portable|plain [STEPS]

`plain` is ordinary PyTorch from the same initial weights and data: the negative control.
"""

import atexit
import gc
import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdtrue.numerics import portable_mode, steady_optimizer, steady_scheduler

Batch = tuple[Tensor, Tensor]


class Recurrent(nn.Module):
    """Embedding, a bidirectional LSTM of two layers with dropout, a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 12, padding_idx=0)
        self.lstm = nn.LSTM(12, 10, 2, dropout=0.2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(20, 9, batch_first=True)
        self.out = nn.Linear(9, 5)

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.gru(self.lstm(self.embed(words))[0])[0][:, -1])  # type: ignore[no-any-return]  # torch's


class Encoder(nn.Module):
    """Embedding, two encoder layers with masks, dropout and GELU, a decoder layer, RMS and group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 24)
        layer = nn.TransformerEncoderLayer(24, 3, 48, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoderLayer(24, 2, 48, batch_first=True, norm_first=True)
        self.rms, self.group = nn.RMSNorm(24), nn.GroupNorm(4, 24)
        self.out = nn.Linear(24, 5)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        causal = nn.Transformer.generate_square_subsequent_mask(words.shape[1])
        x = self.layers(x, mask=causal, is_causal=True, src_key_padding_mask=None)
        x = self.decoder(x, x, tgt_key_padding_mask=torch.zeros_like(words, dtype=torch.bool))
        return self.out(F.silu(self.group(self.rms(x).transpose(1, 2)).amax(2)))  # type: ignore[no-any-return]


def mlp() -> nn.Module:
    """Three layers with unlike activations."""
    return nn.Sequential(
        nn.Linear(33, 50),
        nn.Tanh(),
        nn.LayerNorm(50),
        nn.Linear(50, 40),
        nn.Softplus(),
        nn.Dropout(0.1),
        nn.Linear(40, 5),
    )


def cnn() -> nn.Module:
    """Convolutions with batch norm, dropout and both kinds of pooling."""
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 12, 3, stride=2, groups=2),
        nn.BatchNorm2d(12),
        nn.SiLU(),
        nn.Dropout(0.2),
        nn.AvgPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(48, 5),
    )


def images() -> Tensor:
    """A batch for `cnn`."""
    return torch.randn(6, 2, 14, 14)


TASKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], str]] = {
    "mlp": (mlp, lambda: torch.randn(16, 33), "sgd"),
    "cnn": (cnn, images, "adam"),
    "lstm": (Recurrent, lambda: torch.randint(0, 20, (6, 7)), "adamw"),
    "transformer": (Encoder, lambda: torch.randint(0, 20, (6, 9)), "adamw"),
}


def optimizer_of(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer with all its terms in use."""
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr=0.003, weight_decay=1e-3)
    return torch.optim.AdamW(model.parameters(), lr=0.003)


@contextmanager
def updating(is_portable: bool, optimizer: torch.optim.Optimizer, scheduler: object) -> Iterator[None]:
    """Context of an update and its scheduler."""
    if not is_portable:
        yield
        return
    with steady_optimizer(optimizer), steady_scheduler(scheduler):
        yield


def loss_of(name: str, logits: Tensor, target: Tensor) -> Tensor:
    """A loss with smoothing and ignored targets; for `mlp` three kinds of loss together."""
    loss = F.cross_entropy(logits, target, label_smoothing=0.1, ignore_index=4)
    if name == "mlp":
        one_hot = F.one_hot(target, 5).float()
        loss = loss + F.mse_loss(logits, one_hot) + F.binary_cross_entropy_with_logits(logits, one_hot)
        loss = loss + F.smooth_l1_loss(logits, one_hot) + F.binary_cross_entropy(logits.sigmoid(), one_hot)
    return loss


def digest(model: nn.Module, losses: list[float]) -> str:
    """Hash of weights, buffers and losses."""
    found = hashlib.sha256(repr(losses).encode())
    for name, value in model.state_dict().items():
        found.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def train(name: str, *, is_portable: bool, steps: int, device: str = "cpu") -> str:
    """Digest after a training."""
    build, sample, kind = TASKS[name]
    with portable_mode(key=1):  # the control starts from the same weights and batches
        model = build().to(device)
        data = [(sample().to(device), torch.randint(0, 5, (len(sample()),)).to(device)) for _ in range(2)]
    optimizer = optimizer_of(kind, model)
    scheduler: object = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.3, total_iters=2),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9),
        ],
        milestones=[2],
    )
    losses: list[float] = []
    for step in range(steps):
        x, y = data[step % 2]
        torch.manual_seed(step)
        inside: AbstractContextManager[object] = (
            portable_mode(key=100 + step) if is_portable else nullcontext()
        )
        with inside, torch.backends.cudnn.flags(enabled=False):
            loss = loss_of(name, model(x), y)
            loss.backward()
            losses.append(loss.item())
            with updating(is_portable, optimizer, scheduler):
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()  # type: ignore[attr-defined]
            optimizer.zero_grad()
    return digest(model, losses)


if __name__ == "__main__":
    atexit.register(gc.freeze)  # or the collector looks through all of torch at the end
    wanted = sys.argv[1] == "portable"
    for task in TASKS:
        print(task, train(task, is_portable=wanted, steps=int(sys.argv[2]) if len(sys.argv) > 2 else 4))
