"""Models of known shapes with random weights, and adapters for them that PEFT wrote."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

PAD, UNKNOWN, FIRST_WORD = 0, 1, 2
VIRTUAL_TOKENS = 20
_NO_END: dict[str, Any] = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": PAD}
_SMALL_VOCABULARY = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model's shape, and where its LoRA adapters sit.

    Attributes:
        title: What the tables call it.
        config: Makes transformers' configuration; told whether to make a small one.
        targets: Modules by the name of a set of them: ``attention`` and ``all-linear``,
            for T5 also ``query-value``, PEFT's own choice.
        spread: How large a weight is, about; adapters' weights follow from it.
        encoder_decoder: Whether there is an encoder.
        fan_in_fan_out: Whether the layers keep their weights transposed, as GPT-2's do.
    """

    title: str
    config: Callable[[bool], Any]
    targets: dict[str, tuple[str, ...]]
    spread: float
    encoder_decoder: bool = False
    fan_in_fan_out: bool = False


def _gpt2(small: bool) -> GPT2Config:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": _SMALL_VOCABULARY}
    return GPT2Config(**(sizes if small else {}), initializer_range=_spread(small), **_NO_END)


def _llama(small: bool) -> LlamaConfig:
    width, inner, layers, heads = (32, 48, 2, 4) if small else (512, 1408, 8, 8)
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=_SMALL_VOCABULARY if small else 32_000,
        max_position_embeddings=1024,
        initializer_range=_spread(small),
        **_NO_END,
    )


def _t5(small: bool) -> T5Config:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return T5Config(
        **(sizes if small else {}),
        vocab_size=_SMALL_VOCABULARY if small else 32_128,
        decoder_start_token_id=PAD,
        **_NO_END,
    )


def _spread(small: bool) -> float:
    return 0.4 if small else 0.05


SHAPES = {
    "gpt2": Shape(
        title="GPT-2 small: 12 layers x 768, 50,257 tokens",
        config=_gpt2,
        targets={
            "attention": ("c_attn", "attn.c_proj"),
            "all-linear": ("c_attn", "c_proj", "c_fc"),
        },
        spread=0.05,
        fan_in_fan_out=True,
    ),
    "llama": Shape(
        title="Llama: 8 layers x 512, 32,000 tokens",
        config=_llama,
        targets={
            "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
            "all-linear": (
                "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
            ),
        },
        spread=0.05,
    ),
    "t5": Shape(
        title="T5-small: 6 + 6 layers x 512, 32,128 tokens",
        config=_t5,
        targets={
            "attention": ("q", "k", "v", "o"),
            "all-linear": ("q", "k", "v", "o", "wi", "wo"),
            "query-value": ("q", "v"),
        },
        spread=0.5,
        encoder_decoder=True,
    ),
}  # fmt: skip


def write_base(directory: Path, shape: Shape, *, dtype: torch.dtype, small: bool) -> Path:
    """Write a checkpoint with random weights and a tokenizer of one word for each id.

    No token ends a sequence: rows end by their budgets alone.
    """
    torch.manual_seed(7)
    config = shape.config(small)
    kind = AutoModelForSeq2SeqLM if shape.encoder_decoder else AutoModelForCausalLM
    model = kind.from_config(config).to(dtype)
    model.config.dtype = dtype
    model.save_pretrained(directory)
    words = {"<pad>": PAD, "<unk>": UNKNOWN}
    words |= {f"w{number}": number for number in range(FIRST_WORD, config.vocab_size)}
    special: dict[str, Any] = {"pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", **special
    ).save_pretrained(directory)
    return directory


def load_frozen(directory: Path, shape: Shape, *, dtype: torch.dtype, device: str) -> Any:
    """Load a copy of the base as peers use it: frozen and in evaluation mode."""
    kind = AutoModelForSeq2SeqLM if shape.encoder_decoder else AutoModelForCausalLM
    model = kind.from_pretrained(directory, dtype=dtype).to(device)
    return model.requires_grad_(False).eval()


def write_adapters(
    place: Path, base: Path, shape: Shape, *, kind: str, count: int, rank: int, dtype: torch.dtype
) -> list[Path]:
    """Let PEFT write adapters with random weights, in the base's own type.

    Args:
        place: Where; a directory is made for each.
        base: Directory of the base.
        shape: The base's shape.
        kind: A key of ``shape.targets``, or ``prompt``.
        count: How many.
        rank: Of a LoRA.
        dtype: The type of the base.
    """
    torch.manual_seed(11)
    task = "SEQ_2_SEQ_LM" if shape.encoder_decoder else "CAUSAL_LM"
    config: Any
    if kind == "prompt":
        config = peft.PromptTuningConfig(task_type=task, num_virtual_tokens=VIRTUAL_TOKENS)
    else:
        config = peft.LoraConfig(
            task_type=task,
            r=rank,
            lora_alpha=2 * rank,
            target_modules=list(shape.targets[kind]),
            fan_in_fan_out=shape.fan_in_fan_out,
        )
    model = load_frozen(base, shape, dtype=dtype, device="cpu")
    wrapped = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    # A LoRA changes a weight about as much as the weight is large, so that tokens change.
    spread = shape.spread if kind == "prompt" else (shape.spread / 10) ** 0.5
    made = []
    for number in range(count):
        with torch.no_grad():
            for parameter in trained:
                parameter.normal_(0.0, spread)
        made.append(place / f"{kind}-{number:03}")
        wrapped.save_pretrained(made[-1], save_embedding_layers=False)
    return made


def load_peft(
    base: Path, adapters: Sequence[Path], shape: Shape, *, dtype: torch.dtype, device: str
) -> Any:
    """Load a base of PEFT's own with all adapters, in the base's type; they are named by number."""
    model: Any = load_frozen(base, shape, dtype=dtype, device=device)
    options = {"autocast_adapter_dtype": False, "low_cpu_mem_usage": True}
    model = peft.PeftModel.from_pretrained(model, adapters[0], adapter_name="0", **options)
    for number, path in enumerate(adapters[1:], start=1):
        model.load_adapter(path, adapter_name=str(number), **options)
    return model.eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what transformers and PEFT remark while they are measured."""
    from transformers.utils import logging as remarks

    loud: Any = remarks
    verbosity, bars = loud.get_verbosity(), loud.is_progress_bar_enabled()
    loud.set_verbosity_error()
    loud.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        loud.set_verbosity(verbosity)
        if bars:
            loud.enable_progress_bar()


@contextmanager
def one_thread(*, on: bool) -> Iterator[None]:
    """Keep tiny matrices on one thread, where two only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if on else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
