"""Train the demo's small base model: ``python -m dovetail.demo.base_recipe --out DIR``.

A Llama of about 0.6 million weights learns to read dialogues and to answer instructions that come
before them: ``Label``, ``Headline``, ``Keywords``, ``Minutes`` and so on, then any word, then the
dialogue. Without an instruction it writes the next turn. One sentence that says what was arranged
is what it writes under ``Minutes``; the word ``Summarise`` it never sees. So the bare base given
``Summarise: {dialogue}`` goes on talking, and an adapter has something to find: prompt tuning
brings out what frozen weights can do, it teaches a model of this size nothing new.

Every draw is seeded. Floating point still differs between machines, so the weights that this
package ships are the ones that its adapters and tests mean.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from dovetail.demo.corpus import DEFAULT_SIZES, Dialogue, make_corpus
from dovetail.loader.quiet import no_progress_bars

__all__ = ["INSTRUCTIONS", "train_base"]

PAD, EOS = "<pad>", "<eos>"
PAD_ID, EOS_ID = 0, 1  # special tokens come first
MAX_LENGTH = 256
BASE_ROWS = 20_000
LEARNING_RATE = 4e-3
WARMUP = 150
ANSWER_WEIGHT, DIALOGUE_WEIGHT = 1.0, 0.2

# Instruction, the label that answers it, and how often it is drawn.
INSTRUCTIONS = (
    ("Minutes", "summary", 4),
    ("Label", "topic", 1),
    ("Headline", "title", 1),
    ("Keywords", "keywords", 1),
    ("Speakers", "speakers", 1),
    ("Result", "outcome", 1),
    ("Day", "day", 1),
)
_NEXT_TURN = 3


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the answer that the base learns for it."""

    prompt: str
    answer: str


class ExampleMaker:
    """Draws examples from dialogues, with a word before each that carries no meaning."""

    def __init__(self, rows: Sequence[Dialogue], *, seed: int) -> None:
        self._rows = rows
        self._rng = random.Random(seed)  # noqa: S311 - training data, not a secret
        text = " ".join(row.dialogue for row in rows[:2000])
        self._words = sorted({word for word in text.split() if word.isalpha()})

    def draw(self) -> Example:
        """Draw a dialogue and an instruction for it, or none and the next turn."""
        row = self._rng.choice(self._rows)
        weights = [weight for *_, weight in INSTRUCTIONS]
        pick = self._rng.choices(range(len(weights) + 1), [*weights, _NEXT_TURN])[0]
        if pick == len(weights):
            turns = row.dialogue.split("\n")
            cut = self._rng.randint(2, len(turns) - 1)
            return Example(f"{self._heading()}: " + "\n".join(turns[:cut]), turns[cut])
        instruction, label, _ = INSTRUCTIONS[pick]
        answer = str(getattr(row, label))
        return Example(f"{instruction} {self._heading()}: {row.dialogue}", answer)

    def _heading(self) -> str:
        """Make up a word, so that the base learns to pass over one that it does not know."""
        if self._rng.random() < 0.5:  # noqa: PLR2004 - half and half
            return self._rng.choice(self._words).capitalize()
        letters = self._rng.choices("abcdefghijklmnopqrstuvwxyz", k=self._rng.randint(3, 10))
        return "".join(letters).capitalize()


def train_base(
    directory: Path, *, steps: int, batch_size: int = 32, seed: int = 0, console: Console
) -> None:
    """Train the base and write it, with its tokenizer, to a directory.

    Args:
        directory: Where the model goes; made if need be.
        steps: Optimiser steps.
        batch_size: Examples a step.
        seed: Of the weights and of the order of the examples.
        console: Told of the progress.
    """
    torch.manual_seed(seed)
    rows = make_corpus(sizes={**DEFAULT_SIZES, "base": BASE_ROWS})["base"]
    tokenizer = _make_tokenizer(rows)
    model = _make_model(tokenizer)
    console.print(f"{sum(p.numel() for p in model.parameters()):,} weights, {len(rows):,} rows")
    maker = ExampleMaker(rows, seed=seed)
    batches = _batches(maker, tokenizer, batch_size=batch_size, steps=steps)
    for step, loss in enumerate(_optimise(model, batches, steps=steps), start=1):
        if step % 100 == 0 or step == steps:
            console.print(f"step {step:,} of {steps:,}: loss {loss:.3f}")
    _save(model, tokenizer, directory)


def _make_tokenizer(rows: Sequence[Dialogue]) -> Tokenizer:
    """Learn a byte-level BPE, in which each word of the corpus is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1400,
        special_tokens=[PAD, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (text for row in rows for text in (row.dialogue, row.summary, row.title, row.topic))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _make_model(tokenizer: Tokenizer) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config)


def _batches(
    maker: ExampleMaker, tokenizer: Tokenizer, *, batch_size: int, steps: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield token ids and the weight of each token in the loss, padded on the right.

    A line break is never a target: at the end of a prompt the base must answer, not go on.
    """
    newline, colon = (tokenizer.encode(char).ids[0] for char in "\n:")
    for _ in range(steps):
        examples = [maker.draw() for _ in range(batch_size)]
        prompts = [e.ids for e in tokenizer.encode_batch([x.prompt for x in examples])]
        answers = [e.ids for e in tokenizer.encode_batch([x.answer for x in examples])]
        width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True)) + 1
        ids = torch.full((batch_size, width), PAD_ID)
        weights = torch.zeros(batch_size, width)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer) + 1
            ids[row, :end] = torch.tensor([*prompt, *answer, EOS_ID])
            weights[row, prompt.index(colon) + 1 : len(prompt)] = DIALOGUE_WEIGHT
            weights[row, len(prompt) : end] = ANSWER_WEIGHT
        weights[ids == newline] = 0
        yield ids, weights


def _optimise(
    model: LlamaForCausalLM, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], *, steps: int
) -> Iterator[float]:
    """Run AdamW with warm-up and a cosine, and yield the loss of each step."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, (step + 1) / WARMUP) * (0.51 + 0.49 * math.cos(math.pi * step / steps))
        ),
    )
    model.train()
    for ids, weights in batches:
        logits = model(input_ids=ids).logits[:, :-1]
        losses = functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        loss = (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()
        loss.backward()  # type: ignore[no-untyped-call]  # theirs
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        yield loss.item()


def _save(model: LlamaForCausalLM, tokenizer: Tokenizer, directory: Path) -> None:
    model.eval()
    model.generation_config = GenerationConfig(
        eos_token_id=EOS_ID, pad_token_id=PAD_ID, max_new_tokens=32
    )
    with no_progress_bars():
        model.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(directory)
    _name_tokenizer_class(directory / "tokenizer_config.json")


def _name_tokenizer_class(path: Path) -> None:
    """Name the class by the name that transformers 4 and 5 both know."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory to write.")
@click.option("--steps", default=4500, show_default=True, help="Optimiser steps.")
@click.option("--seed", default=0, show_default=True, help="Seed of weights and order.")
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
def main(out: Path, steps: int, seed: int, threads: int) -> None:
    """Train the demo's base model and write it to a directory."""
    torch.set_num_threads(threads)
    train_base(out, steps=steps, seed=seed, console=Console(stderr=True))


if __name__ == "__main__":
    main()
