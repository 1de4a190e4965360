"""`python -m holdtrue.numerics`: engines of this installation, and the operators that portable numerics covers."""

import textwrap

from . import covered_operators, engine, engines

_KINDS = {
    "forms": "computed by forms of holdtrue (in-place, out= and _foreach_ variants too)",
    "ieee": "one IEEE operation for each element, as they are",
    "moves": "move, select or compare values, as they are",
}


def main() -> None:
    """Print them."""
    print(f"engines: {', '.join(engines())}; in use: {engine()}. The bits are the same with each.")
    for kind, names in covered_operators().items():
        print(f"\n{len(names)} operators {_KINDS[kind]}:")
        print(textwrap.fill(" ".join(names), 110, initial_indent="  ", subsequent_indent="  "))


if __name__ == "__main__":
    main()
