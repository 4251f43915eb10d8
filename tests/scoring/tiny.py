"""Tiny base models and adapters for the tests that score with real ones."""

import warnings

import peft
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

UNKNOWN = "<unk>"
WORDS = {"<pad>": 0, "</s>": 1, UNKNOWN: 2, **{f"w{n}": n for n in range(3, 32)}}
TEXTS = [" ".join(f"w{3 + (n * k) % 29}" for k in range(1, 2 + n % 7)) for n in range(9)]


def make_base(directory, seed):
    """Save a tiny GPT-2 with random weights and a tokenizer of words."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            n_embd=16,
            n_layer=1,
            n_head=2,
            n_positions=32,
            vocab_size=32,
            initializer_range=0.5,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=1,
        )
    )
    model.save_pretrained(directory)
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": UNKNOWN}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory)
    return directory


def make_lora(directory, base, seed):
    """Save a LoRA adapter that writes and whose weights do something."""
    return _save(directory, GPT2LMHeadModel.from_pretrained(base), "CAUSAL_LM", seed)


def make_classifier(directory, base, seed, *, labels):
    """Save a LoRA adapter with a head of so many labels."""
    model = GPT2ForSequenceClassification.from_pretrained(base, num_labels=labels)
    return _save(directory, model, "SEQ_CLS", seed)


def _save(directory, base, task, seed):
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        task_type=task,
        r=2,
        target_modules=["c_attn"],
        fan_in_fan_out=True,
        init_lora_weights=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        model = peft.get_peft_model(base, config)
    if task == "SEQ_CLS":
        with torch.no_grad():
            head = model.base_model.model.score.modules_to_save["default"].weight
            head.copy_(torch.randn_like(head))
    model.save_pretrained(directory)
    return directory
