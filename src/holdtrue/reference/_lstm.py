"""`python -m holdtrue.reference._lstm`: a recurrent network that must remember the last of some letters."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import holdtrue as ht
from holdtrue.numerics import portable_mode

from ._data import LETTERS, SPECIAL, make_words

EPOCHS = 8


class Reader(nn.Module):
    """Embedding, two layers of LSTM with dropout between them, one linear layer; `[N, 12]` in, `[N, 4]` out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(LETTERS, 24)
        self.lstm = nn.LSTM(24, 48, 2, dropout=0.1, batch_first=True)
        self.out = nn.Linear(48, SPECIAL)

    def forward(self, words: Tensor) -> Tensor:
        """Scores of the classes."""
        states: Tensor = self.lstm(self.embed(words))[0]
        scores: Tensor = self.out(states[:, -1])
        return scores


def main() -> None:
    """Train, and log the accuracy on other words."""
    run = ht.init(virtual_nodes=3, global_batch_size=96, seed=0, numerics="portable")
    with portable_mode(key=run.plan.seed):
        model: nn.Module = Reader()
    train_set, test_set = make_words(2016, part=0), make_words(1024, part=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99)
    model, optimizer, scheduler = run.prepare(model, optimizer, scheduler)
    for step in run.steps(train_set, epochs=EPOCHS):
        for words, labels in step:
            step.backward(F.cross_entropy(model(words), labels))
        step.update(max_grad_norm=1.0)
    scores = run.evaluate(lambda x, y: {"accuracy": (model(x).argmax(-1) == y).float().mean()}, test_set)
    run.log(**scores)


if __name__ == "__main__":
    main()
