"""A small language model and its Trainer, for the tests of `holdtrue.integrations.transformers`."""

from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

WORDS = 20


def lines_of(count: int) -> list[list[int]]:
    """Lines of 2 to 9 words."""
    return [
        [(7 * i + 3 * k * k + i * k) % (WORDS - 1) + 1 for k in range(2 + (5 * i) % 8)] for i in range(count)
    ]


def collate(lines: list[list[int]]) -> dict[str, torch.Tensor]:
    """Pad to the longest line; padding is no target."""
    ids = torch.zeros(len(lines), max(map(len, lines)), dtype=torch.long)
    for row, line in zip(ids, lines, strict=True):
        row[: len(line)] = torch.tensor(line)
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids.masked_fill(ids == 0, -100)}


def make_model(dropout: float = 0.1) -> GPT2LMHeadModel:
    """The same weights each time."""
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=WORDS,
        n_positions=10,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
    )
    return GPT2LMHeadModel(config)


def make_trainer(
    kind: type,
    folder: Path,
    *,
    dropout: float = 0.1,
    callbacks: list[Any] | None = None,
    dataset: Any = None,
    compute_metrics: Any = None,
    **changes: Any,
) -> Any:
    """A Trainer of `kind` with global batch 21 = 7 x 3 and 45 lines: the last batch of an epoch is short."""
    arguments = {
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 7,
        "per_device_eval_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "max_grad_norm": 0.5,
        "seed": 11,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **changes,
    }
    return kind(
        model=make_model(dropout),
        args=TrainingArguments(output_dir=str(folder), **arguments),
        data_collator=collate,
        train_dataset=lines_of(45) if dataset is None else dataset,
        eval_dataset=lines_of(13),
        compute_metrics=compute_metrics,
        callbacks=callbacks,
    )
