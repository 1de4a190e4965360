"""Covered operators by what they are for."""

from ._composites import COMPOSITES
from ._registry import ADDED, FORMS, IEEE, MOVES

_PRODUCTS = {"mm", "bmm", "mv", "dot", "vdot", "addmm", "baddbmm", "addmv", "addr"}
_BY_MODULE = {
    "_windows": "convolution and pooling",
    "_transposed": "convolution and pooling",
    "_copies": "convolution and pooling",
    "_resize": "convolution and pooling",
    "_norms": "normalisation",
    "_losses": "losses",
    "_reductions": "sums, extremes, sorting",
    "_elementwise": "functions and arithmetic",
    "_activations": "functions and arithmetic",
    "_indexing": "embeddings and sums by index",
    "_random": "random numbers",
}
ORDER = (
    "matrix products",
    "convolution and pooling",
    "normalisation",
    "softmax",
    "losses",
    "functions and arithmetic",
    "sums, extremes, sorting",
    "embeddings and sums by index",
    "random numbers",
    "whole functions, made of the above",
    "one IEEE operation for each element",
    "moves, selections, comparisons",
)


def operator_groups() -> dict[str, tuple[str, ...]]:
    """Names of covered operators by group, in the order of a model's parts; those that a user registered come last."""
    found: dict[str, list[str]] = {title: [] for title in ORDER}
    for name, function in FORMS.items():
        if name not in ADDED:
            found[_title(name, function.__module__)].append(name)
    found["whole functions, made of the above"] = list(COMPOSITES)
    found["one IEEE operation for each element"] = list(IEEE)
    found["moves, selections, comparisons"] = list(MOVES)
    if ADDED:
        found["added by register_operator"] = list(ADDED)
    return {title: tuple(sorted(names)) for title, names in found.items()}


def _title(name: str, module: str) -> str:
    if name in _PRODUCTS:
        return "matrix products"
    if "softmax" in name:
        return "softmax"
    return _BY_MODULE[module.rpartition(".")[2]]
