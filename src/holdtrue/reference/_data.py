"""Data for the reference trainings, from counter-based random numbers: integers, and single IEEE operations on floats."""

import torch
from torch.utils.data import TensorDataset

from holdtrue.numerics import RandomStream

CPU = torch.device("cpu")
KEY = 0x686F6C64  # any number: which data the trainings see
CLASSES, SIDE = 8, 12


def make_images(examples: int, *, part: int) -> TensorDataset:
    """Noisy images of eight 5x5 patterns at random places: `[examples, 1, 12, 12]` float32, and classes.

    Args:
        examples: How many.
        part: 0 to train, 1 to test: other draws of the same patterns.
    """
    patterns = RandomStream(KEY).integers(0, 2, torch.Size([CLASSES, 5, 5]), CPU).float()
    stream = RandomStream(KEY + 1 + part)
    label = stream.integers(0, CLASSES, torch.Size([examples]), CPU)
    place = stream.integers(0, SIDE - 4, torch.Size([examples, 2]), CPU).tolist()
    noise = stream.uniform(torch.Size([examples, 1, SIDE, SIDE]), CPU, torch.float32)
    strength = stream.uniform(torch.Size([examples]), CPU, torch.float32) * 0.5 + 0.75
    images = noise * 1.0
    for i, (top, left) in enumerate(place):
        images[i, 0, top : top + 5, left : left + 5] += patterns[label[i]] * strength[i]
    return TensorDataset(images - 0.5, label)


LETTERS, LENGTH, SPECIAL = 12, 12, 4


def make_words(examples: int, *, part: int) -> TensorDataset:
    """Words of 12 letters; the class is the last of four special letters in them, and every eighth label is random."""
    stream = RandomStream(KEY + 3 + part)
    words = stream.integers(0, LETTERS, torch.Size([examples, LENGTH]), CPU)
    words[:, 0] = stream.integers(0, SPECIAL, torch.Size([examples]), CPU)  # at least one
    at = torch.where(words < SPECIAL, torch.arange(LENGTH), -1).amax(1)
    label = words.gather(1, at[:, None])[:, 0]
    wrong = stream.integers(0, 8, torch.Size([examples]), CPU) == 0
    other = stream.integers(0, SPECIAL, torch.Size([examples]), CPU)
    return TensorDataset(words, torch.where(wrong, other, label))


SYMBOLS, TEXT_LENGTH = 8, 20


def make_texts(examples: int, *, part: int) -> TensorDataset:
    """Texts in which a symbol follows from the two before it with three chances in four: inputs, and the next symbols."""
    table = RandomStream(KEY + 5).integers(0, SYMBOLS, torch.Size([SYMBOLS, SYMBOLS]), CPU)
    stream = RandomStream(KEY + 6 + part)
    shape = torch.Size([examples, TEXT_LENGTH + 1])
    drawn = stream.integers(0, SYMBOLS, shape, CPU)
    free = stream.integers(0, 4, shape, CPU) == 0
    text = drawn.clone()
    for t in range(2, TEXT_LENGTH + 1):
        text[:, t] = torch.where(free[:, t], drawn[:, t], table[text[:, t - 2], text[:, t - 1]])
    return TensorDataset(text[:, :-1].clone(), text[:, 1:].clone())
