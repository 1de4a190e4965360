"""One training run of the paper's first experiment, on as many workers as it is given.

    python benchmarks/paper/train.py
    holdtrue run --workers 4 benchmarks/paper/train.py
    holdtrue run --virtual-nodes 1 --global-batch-size 32 benchmarks/paper/train.py     the naive way on one worker

Hyper-parameters are arguments and never depend on the workers. Leaves what it measured in `--out`, and the
peak resident memory of each worker beside it.
"""

import argparse
import json
import math
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from images import build_network, read_images, split_images

import holdtrue as ht


def peak_bytes() -> int:
    """This process's high-water mark of resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM; the kernel must be Linux. Run this on Linux.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--held-out", choices=("test", "validation"), default="test")
    parser.add_argument("--images", type=Path, help="file of images; the package's own by default")
    parser.add_argument("--out", type=Path, help="JSON file for what the run measured")
    args = parser.parse_args()

    run = ht.init(virtual_nodes=16, global_batch_size=256, seed=0)
    train_set, score_set = split_images(read_images(args.images), args.held_out)
    model = build_network()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay
    )
    steps = args.epochs * math.ceil(len(train_set) / run.plan.global_batch_size)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    model, optimizer, scheduler = run.prepare(model, optimizer, scheduler)

    loss = math.nan
    for step in run.steps(train_set, epochs=args.epochs, drop_last=False):
        for images, labels in step:
            step.backward(F.cross_entropy(model(images), labels))
        step.update()
        loss = step.loss
    scores = run.evaluate(lambda x, y: {"accuracy": (model(x).argmax(-1) == y).float().mean()}, score_set)

    digest = run.digest()
    if args.out:
        args.out.with_suffix(f".peak.{os.getpid()}").write_text(str(peak_bytes()))
        result = {"accuracy": scores["accuracy"], "steps": steps, "last_loss": loss, "digest": digest}
        run.on_main(args.out.write_text, json.dumps(result))
    run.print(f"accuracy {scores['accuracy']:.4f}  digest {digest[:16]}")


if __name__ == "__main__":
    main()
