"""Files that a script writes through its run: models, and where a trial's belong."""

from pathlib import Path

import safetensors.torch

from ._checks import path_of_any
from ._core import Core


def place_file(core: Core, path: str | Path) -> Path:
    """See `Run.path_for`."""
    settings, named = core.settings, path_of_any("run.path_for", path)
    if not settings.trace or settings.run_dir is None:
        return named
    return Path(settings.run_dir).absolute() / "saved" / named.name


def save_models(core: Core, path: str) -> None:
    """Write the models as safetensors: aside, then renamed; of several, each with its number before the suffix."""
    weights = list(core.state.weights().values())
    for i, tensors in enumerate(weights):
        target = place_file(core, path)
        if len(weights) > 1:
            target = target.with_name(f"{target.stem}.{i}{target.suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(target.name + ".part")
        own = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        safetensors.torch.save_file(own, aside, metadata={"format": "pt"})
        aside.chmod(0o644)  # safetensors leaves it to its owner alone
        aside.replace(target)
