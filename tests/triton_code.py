"""Compiles the Triton kernels for GPUs that are not here, and prints what their machine code has; see `test_numerics_triton.py`.

python tests/triton_code.py 90   -> one JSON list of kernels, for compute capability 9.0
"""

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from holdtrue.numerics import _triton

BYTES, WORDS, FLOATS = "*i8", "*i32", "*fp32"
POINTERS = {
    "a": BYTES,
    "b": BYTES,
    "x": WORDS,
    "y": WORDS,
    "out": FLOATS,
    "facts": WORDS,
    "order": WORDS,
    "wides": WORDS,
    "totals": WORDS,
}
ALIGNED = ("rows", "columns", "K_padded", "places")


def compiled(
    kernel: Any, constants: Mapping[str, Any], capability: int, fuses: bool = False, **options: int
) -> Any:
    """A kernel's code; Any: Triton has no types."""
    signature, aligned = {}, {}
    for i, name in enumerate(kernel.arg_names):
        stem = name if name in POINTERS else re.sub("_[abxy]$", "", name)
        kind = POINTERS.get(stem, "i32")
        if kernel.fn.__name__ == "_cut" and name == "out":
            kind = BYTES
        signature[name] = "constexpr" if name in constants else kind
        if name not in constants and name not in _triton.VARYING and (stem in POINTERS or name in ALIGNED):
            aligned[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
        attrs=aligned,
    )
    return triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={**_triton.OPTIONS, "enable_fp_fusion": fuses, **options},
    )


def facts(name: str, code: Any) -> dict[str, object]:
    """What is looked at in the code of a kernel; Any: as above."""
    ptx = code.asm["ptx"]
    return {
        "kernel": name,
        "fused": len(re.findall(r"\b[DF]FMA", code.asm["sass"])),
        "flushes": len(re.findall(r"\.ftz\b", ptx)),
        "byte_products": len(re.findall(r"mma\S*\.s32\.s8\.s8", ptx)),
        "other_products": len(re.findall(r"mma\S*\.(?:f16|bf16|tf32|f64|e4m3)", ptx)),
        "layouts": len(set(re.findall(r"#mma\d* =", code.asm["ttgir"]))),
        "shared_bytes": code.metadata.shared,
    }


def main() -> None:
    """Compile for the capability that is named."""
    capability = int(sys.argv[1])
    has_room = capability in (80, 90, 100)
    look = {"BV": _triton.LOOK_VECTORS, "BK": _triton.LOOK_K}
    found = [
        facts("_look", compiled(_triton._look, look | {"COUNT": True, "RUN": _triton.LOOKS}, capability)),
        facts("_cut", compiled(_triton._cut, look | {"SLICES": 4}, capability)),
        facts("_sort", compiled(_triton._sort, {"BLOCK": _triton.ORDER_BLOCK}, capability)),
        facts("_mark", compiled(_triton._mark, {"B": _triton.SPECIAL_TILE}, capability)),
    ]
    for slices, is_long, is_small in (
        (4, False, False),
        (6, False, False),
        (4, True, True),
        (4, False, True),
    ):
        tile = _triton.choose_tile(slices, is_long=is_long, is_small=is_small, has_room=has_room)
        constants = {
            "SLICES": slices, "WIDE": slices == 6, "LONG": is_long, "BM": tile.rows, "BN": tile.columns, "BK": tile.k,
        }  # fmt: skip
        code = compiled(
            _triton._multiply, constants, capability, num_warps=tile.warps, num_stages=tile.stages
        )
        found.append(facts(f"_multiply {slices}{' long' * is_long}{' small' * is_small}", code))
    # Triton compiles steps of 1 as constants, which the interpreter does not.
    for kernel, constants in (
        (_triton._look, {"COUNT": True, "RUN": _triton.LOOKS}),
        (_triton._cut, {"SLICES": 4}),
    ):
        known = {"step_vector": 1, "step_k": 1}
        found.append(
            facts(f"{kernel.fn.__name__} of ones", compiled(kernel, look | known | constants, capability))
        )
    # The control: the same code with fusion allowed.
    found.append(facts("fusing _cut", compiled(_triton._cut, look | {"SLICES": 4}, capability, fuses=True)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
