"""`python -m holdtrue.numerics`: engines of this installation, and the operators that portable numerics covers."""

import argparse
import json
import textwrap

import torch

from . import covered_operators, cuda_engine, engine, engines, operator_groups
from ._scalars import COVERED_OPTIMIZERS

WIDTH = 110
KINDS = {
    "forms": "computed by holdtrue; variants in place, with out= and on lists (_foreach_) follow from them",
    "ieee": "one IEEE operation for each element, as torch has them",
    "moves": "move, select or compare values, as torch has them",
}


def facts() -> dict[str, object]:
    """What `--json` prints."""
    return {
        "engines": list(engines()),
        "engine": engine(),
        "cuda_engine": cuda_engine(torch.device("cuda")) if torch.cuda.is_available() else None,
        "operators": {title: list(names) for title, names in operator_groups().items()},
        "counts": {kind: len(names) for kind, names in covered_operators().items()},
        "optimizers": list(COVERED_OPTIMIZERS),
    }


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(prog="python -m holdtrue.numerics", description=__doc__)
    parser.add_argument("--json", action="store_true", help="machine readable")
    if parser.parse_args().json:
        print(json.dumps(facts(), indent=1))
        return
    print(f"engines: {', '.join(engines())}; in use: {engine()}. The bits are the same with each.")
    if torch.cuda.is_available():
        print(f"On CUDA matrix products are computed by: {cuda_engine(torch.device('cuda'))}.")
    for title, names in operator_groups().items():
        print(f"\n{title} ({len(names)}):")
        print(textwrap.fill(" ".join(names), WIDTH, initial_indent="  ", subsequent_indent="  "))
    print()
    for kind, names in covered_operators().items():
        print(f"{len(names)} {KINDS[kind]}.")
    print(f"Optimizers: {', '.join(COVERED_OPTIMIZERS)}; others run if their operators are covered.")
    print(
        "Any other operator is refused by name in the first pass; docs/guide/portable.md says how to add one."
    )


if __name__ == "__main__":
    main()
