"""What stands around the results: data, model and learning rate before them, weaknesses after. Pure."""

from tables import Raw, listed

COMMANDS = """\
```sh
pip install mlxtend
python benchmarks/paper/tune.py --out benchmarks/raw/paper-tuning.json
python benchmarks/paper/hardware.py --out benchmarks/raw/paper-hardware.json
python benchmarks/paper/batches.py --out benchmarks/raw/paper-batches.json
python benchmarks/paper/cost.py --out benchmarks/raw/paper-cost.json
python benchmarks/paper/render.py
```"""


def setting_section(tuning: Raw, hardware: Raw) -> list[str]:
    """Data, model, hyper-parameters, and where the learning rate comes from."""
    training, device, versions = hardware["training"], hardware["device"], hardware["versions"]
    rates = ", ".join(f"{rate['lr']:g}: {100 * rate['accuracy']:.2f}" for rate in tuning["rates"])
    rules = " and ".join(f"{100 * rule['accuracy']:.2f} % by the {rule['rule']}" for rule in tuning["rules"])
    return [
        (
            f"**Data**: {hardware['data']['images']:,} real images of MNIST from the package "
            f"`{hardware['data']['package']}`; 4 in 5 train, every fifth tests, by index. **Model**: two convolutions "
            f"with batch norm, dropout, one linear layer. **Training**: SGD with momentum {training['momentum']:g}, "
            f"weight decay {training['weight_decay']:g}, {training['epochs']} epochs, learning rate "
            f"{training['schedule']}. Every process has one thread ({device['cpu']}, {device['cores']} cores; torch "
            f"{versions['torch']}, Python {versions['python']})."
        ),
        (
            f"**Learning rate**: {tuning['lr']:g}, the best of {len(tuning['rates'])} for global batch 256 on held-out "
            f"training images, seeds {listed(tuning['seeds'])}, none of them used again (mean accuracy in percent by "
            f"rate: {rates}). The same trial chose the rule that scales the rate for other global batches, on the "
            f"smallest and largest of them: mean accuracy {rules}. No test image took part."
        ),
        COMMANDS,
    ]


def limits_section(raw: dict[str, Raw]) -> list[str]:
    """What is weaker than the paper's."""
    hardware, batches = raw["hardware"], raw["batches"]
    images = hardware["data"]["images"]
    tests = images // 5
    weaknesses = (
        (
            f"{images:,} small images and a network of two convolutions on a CPU, where the paper has ImageNet, "
            f"ResNet-50 and BERT on GPUs. With {tests:,} test images one image is {100 / tests:.1f} points."
        ),
        (
            f"{len(hardware['seeds'])} and {len(batches['seeds'])} seeds; the paper has one run each. Equality of bits "
            f"needs no statistics, accuracy does: differences within the ranges above say nothing."
        ),
        (
            f"The workers are processes on one machine of {hardware['device']['cores']} cores. How fast they are "
            f"together was not measured here."
        ),
        "The learning rate was tuned for ours and not for the naive way: that is the experiment, in the paper as here.",
        "The memory limit is a number that plain runs are compared with, not one that the machine enforced.",
    )
    return ["## What these numbers do not show", "\n".join(f"- {text}" for text in weaknesses)]
