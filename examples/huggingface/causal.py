"""Causal language model: a small GPT-2 learns the characters of a text.

An ordinary program for transformers; only the Trainer's import is another.
"""

import argparse
import codecs
import contextlib
import io

import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments, set_seed

from holdtrue.integrations.transformers import Trainer


def read_text():
    """The Zen of Python, which every Python has."""
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    return codecs.decode(this.s, "rot13")


class Lines(torch.utils.data.Dataset):
    """The lines of a text as lists of character numbers."""

    def __init__(self, text):
        self.letters = sorted(set(text))
        numbers = {letter: i + 1 for i, letter in enumerate(self.letters)}
        self.lines = [[numbers[c] for c in line] for line in text.split("\n") if len(line) > 3]

    def __len__(self):
        return len(self.lines)

    def __getitem__(self, index):
        return self.lines[index]


def collate(lines):
    """Pad to the longest line of the batch; padding is no target."""
    longest = max(map(len, lines))
    ids = torch.zeros(len(lines), longest, dtype=torch.long)
    for row, line in zip(ids, lines, strict=True):
        row[: len(line)] = torch.tensor(line)
    return {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "labels": ids.masked_fill(ids == 0, -100),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output-dir", default="causal-output")
    parser.add_argument("--epochs", type=float, default=20)
    options = parser.parse_args()
    set_seed(5)
    lines = Lines(read_text())
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(lines.letters) + 1,
            n_positions=80,
            n_embd=32,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    arguments = TrainingArguments(
        output_dir=options.output_dir,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=3,
        learning_rate=5e-3,
        weight_decay=0.01,
        lr_scheduler_type="linear",
        save_strategy="no",
        logging_steps=10,
        include_num_input_tokens_seen="non_padding",
        seed=5,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, data_collator=collate, train_dataset=lines)
    result = trainer.train()
    trainer.save_model()
    print("loss", result.training_loss, "tokens", trainer.state.num_input_tokens_seen)


if __name__ == "__main__":
    main()
