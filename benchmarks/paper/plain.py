"""Peak resident memory of a plain loop with whole batches: two steps in one process, then the high-water mark.

    python benchmarks/paper/plain.py --batch 2048

Two steps, since the optimizer's momentum exists from the first on. The batch is a copy, as a DataLoader makes it.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from images import build_network, read_images, split_images
from train import peak_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--images", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train_set, _ = split_images(read_images(args.images))
    model = build_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for _ in range(2):
        chosen = torch.randperm(len(train_set))[: args.batch]
        images, labels = (tensor[chosen] for tensor in train_set.tensors)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    print(peak_bytes())


if __name__ == "__main__":
    main()
