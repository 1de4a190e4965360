"""Sequence classification: a small BERT learns whether a sequence has more even than odd numbers.

An ordinary program for transformers; only the Trainer's import is another.
"""

import argparse

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    TrainingArguments,
    set_seed,
)

from holdtrue.integrations.transformers import Trainer


class Sequences(torch.utils.data.Dataset):
    """Sequences of numbers below 30 and whether most of them are even."""

    def __init__(self, count, seed):
        generator = np.random.default_rng(seed)
        self.examples = []
        for _ in range(count):
            numbers = generator.integers(2, 32, size=int(generator.integers(5, 16)))
            label = int((numbers % 2 == 0).sum() * 2 > len(numbers))
            self.examples.append((numbers, label))

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]


def collate(examples):
    """Pad to the longest sequence of the batch."""
    longest = max(len(numbers) for numbers, _ in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    for row, (numbers, _) in zip(ids, examples, strict=True):
        row[: len(numbers)] = torch.as_tensor(numbers)
    labels = torch.tensor([label for _, label in examples])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def accuracy(prediction):
    """Share of right answers."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output-dir", default="classify-output")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    set_seed(3)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=32,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=16,
        )
    )
    arguments = TrainingArguments(
        output_dir=options.output_dir,
        max_steps=options.steps,
        per_device_train_batch_size=14,
        per_device_eval_batch_size=32,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=5,
        label_smoothing_factor=0.1,
        max_grad_norm=1.0,
        eval_strategy="steps",
        eval_steps=10,
        save_steps=10,
        save_total_limit=2,
        logging_steps=5,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        seed=3,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=collate,
        train_dataset=Sequences(300, seed=1),
        eval_dataset=Sequences(101, seed=2),
        compute_metrics=accuracy,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=4)],
    )
    trainer.train()
    trainer.save_model()
    print("accuracy", trainer.evaluate()["eval_accuracy"])


if __name__ == "__main__":
    main()
