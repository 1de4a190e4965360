"""VirtualFlow's own figures, beside which ours are shown.

Source: VirtualFlow (Or, Zhang, Freedman, MLSys 2022); figures re-computed from the logs that its authors published.
"""

TOP_1_SETTING = (
    "ResNet-50 on ImageNet, global batch 8192 = 32 virtual nodes x 256, naive with 256 images for each V100"
)
TOP_1 = {1: 75.86, 2: 75.95, 4: 75.95, 8: 75.79, 16: 75.59}
"""90 epochs: percent by V100s, one run each."""
NAIVE_TOP_1 = {1: 68.48, 2: 67.73, 4: 70.44, 8: 73.13}
"""The same hyper-parameters with 256 images for each V100."""
RTE = {4: 0.6606, 8: 0.7220, 16: 0.7316, 32: 0.5859, 64: 0.7031, 128: 0.6719}
"""BERT-LARGE fine-tuned on RTE, one RTX 2080 Ti: accuracy by global batch, one run each."""
RTE_LARGEST_PLAIN = 4
"""The largest plain batch of BERT-LARGE on that device."""
COST_VIRTUAL_NODES = (1, 2, 4, 8, 16, 32)
THROUGHPUT_RATIO = {
    "ResNet-50": (1.05, 1.07, 1.06, 1.07, 1.07, 1.06),
    "Transformer": (0.97, 0.99, 1.00, 1.01, 1.01, 1.01),
    "BERT-LARGE": (0.96, 1.12, 1.22, 1.27, 1.30, 1.31),
}
"""One RTX 2080 Ti, against plain TensorFlow at its largest batch, by virtual nodes."""
MEMORY_RATIO = {"ResNet-50": (1.00, 1.01), "Transformer": (1.02, 1.14), "BERT-LARGE": (1.13, 1.16)}
"""Lowest and highest peak memory over the same virtual nodes."""
