"""A job that was planned from a profile is the job that was measured, or it does not start."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from holdtrue.engine import Engine
from holdtrue.errors import UsageError

from ._core import Core
from ._environment import collect_environment


def hash_layout(engine: Engine) -> str:
    """Hash of the layout of the model's parameters: equal for equal shapes and types in equal order."""
    return hashlib.sha256(engine.layout_text().encode()).hexdigest()[:16]


def check_expected(core: Core) -> None:
    """Refuse to go on if model, torch or device are not those of the profile that the mapping came from.

    Raises:
        UsageError: they are not; the sentence names both.

    Called by:
        Every worker, before its first step.
    """
    if not core.settings.expected:
        return
    expected: dict[str, Any] = json.loads(core.settings.expected)  # Any: as `holdtrue run` wrote it
    found = {
        "model_hash": hash_layout(core.engine),
        "torch": torch.__version__,
        "device": collect_environment(core.device, core.settings.threads)["device"]["name"],
    }
    models: list[str] = expected.get("devices", {}).get(core.device.type, [])
    # Of several models that were measured, the worker's own is one, or the first is named.
    expected = {
        **expected,
        "device": found["device"] if found["device"] in models else next(iter(models), ""),
    }
    refuse_difference(expected, found)


def refuse_difference(expected: Mapping[str, Any], found: Mapping[str, str]) -> None:  # Any: JSON values
    """Compare what was measured with what is here.

    Raises:
        UsageError: they differ in model, torch or device.
    """
    names = {
        "model_hash": "a model whose parameters have layout",
        "torch": "torch",
        "device": "the device",
    }
    for key, what in names.items():
        if expected.get(key) and expected[key] != found[key]:
            raise UsageError(
                f"the profile {expected.get('profile', '')} was measured with {what} {expected[key]}, and this job has "
                f"{found[key]}; passes of another model, torch or device take another time. Run `holdtrue profile` "
                f"again here, or leave out --profile."
            )
