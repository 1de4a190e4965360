"""`python -m holdtrue.reference._transformer`: a causal transformer that learns which symbol follows."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import holdtrue as ht
from holdtrue.numerics import portable_mode

from ._data import SYMBOLS, TEXT_LENGTH, make_texts

EPOCHS, WIDTH, WARM_UP = 5, 48, 20


class Writer(nn.Module):
    """Embeddings of symbols and places, two causal layers, one linear layer; `[N, 20]` in, `[N, 20, 8]` out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(SYMBOLS, WIDTH), nn.Embedding(TEXT_LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 2 * WIDTH, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, SYMBOLS)
        self.register_buffer("later", torch.ones(TEXT_LENGTH, TEXT_LENGTH, dtype=torch.bool).triu(1))

    def forward(self, text: Tensor) -> Tensor:
        """Scores of the next symbol at every place."""
        x = self.embed(text) + self.place.weight
        scores: Tensor = self.out(self.layers(x, mask=self.later, is_causal=True))
        return scores


def rate(step: int) -> float:
    """Factor of the learning rate: up in a line, then down in a line; exact but for one rounding of each operation."""
    return (step + 1) / WARM_UP if step < WARM_UP else max(0.05, 1.0 - (step - WARM_UP) / 400.0)


def main() -> None:
    """Train, and log the accuracy on other texts."""
    run = ht.init(virtual_nodes=4, global_batch_size=32, seed=0, numerics="portable")
    with portable_mode(key=run.plan.seed):
        model: nn.Module = Writer()
    train_set, test_set = make_texts(2048, part=0), make_texts(512, part=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.98), weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model, optimizer, scheduler = run.prepare(model, optimizer, scheduler)
    for step in run.steps(train_set, epochs=EPOCHS):
        for text, following in step:
            scores = model(text)
            step.backward(F.cross_entropy(scores.flatten(0, 1), following.flatten()))
        step.update(max_grad_norm=1.0)
    found = run.evaluate(lambda x, y: {"accuracy": (model(x).argmax(-1) == y).float().mean()}, test_set)
    run.log(**found)


if __name__ == "__main__":
    main()
