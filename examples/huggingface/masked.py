"""Masked language model: a small BERT fills in words, with a tokenizer that is trained here.

An ordinary program for transformers; only the Trainer's import is another.
"""

import argparse

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import WordLevelTrainer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    TrainingArguments,
    set_seed,
)

from holdtrue.integrations.transformers import Trainer

WHO = ("the cat", "a dog", "the old man", "my sister", "every child", "the quiet neighbour from next door")
DOES = ("sees", "follows", "paints", "likes", "remembers", "never forgets")
WHAT = ("the river", "a red house", "the first snow", "an open window", "the way home", "music")
SENTENCES = [f"{who} {does} {what}" for who in WHO for does in DOES for what in WHAT]


def make_tokenizer():
    """A tokenizer of whole words."""
    words = Tokenizer(WordLevel(unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = Lowercase(), Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words.train_from_iterator(SENTENCES, WordLevelTrainer(special_tokens=special))
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output-dir", default="masked-output")
    parser.add_argument("--epochs", type=float, default=3)
    options = parser.parse_args()
    set_seed(7)
    tokenizer = make_tokenizer()
    examples = [tokenizer(sentence) for sentence in SENTENCES]
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=32,
        )
    )
    arguments = TrainingArguments(
        output_dir=options.output_dir,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=5,
        per_device_eval_batch_size=16,
        learning_rate=3e-3,
        optim="adafactor",
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        seed=7,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3),
        train_dataset=examples[:180],
        eval_dataset=examples[180:],
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()
    print("loss", trainer.evaluate()["eval_loss"])


if __name__ == "__main__":
    main()
