"""Tiny base models and adapters, written with numpy alone: the same bytes for the same seed."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WIDTH = 8
VOCABULARY = 16
LAYERS = 2
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def base(directory, *, seed=0, width=WIDTH, vocabulary=VOCABULARY, layers=LAYERS, kind="gpt2"):
    """Write a base checkpoint of the GPT-2 or the Llama layout; return its directory."""
    made = _folder(directory)
    shapes = _SHAPES[kind](width, vocabulary, layers)
    random = np.random.default_rng(seed)
    tensors = {name: random.standard_normal(shape, "f4") for name, shape in shapes.items()}
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        "hidden_size": width,
        "vocab_size": vocabulary,
    }
    (made / "config.json").write_text(json.dumps(config, indent=2))
    return made


def lora(
    directory, *, seed=0, rank=2, width=WIDTH, layers=LAYERS, kind="gpt2", head=None, **config
):
    """Write a LoRA; ``head`` adds one on the output layer with that many tokens."""
    random = np.random.default_rng(seed)
    sizes = {_TARGETS[kind].format(layer): _OUTPUTS[kind] * width for layer in range(layers)}
    if head is not None:
        sizes["lm_head"] = head
    tensors = {}
    for module, out in sizes.items():
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = random.standard_normal((rank, width), "f4")
        tensors[f"{name}.lora_B.weight"] = random.standard_normal((out, rank), "f4")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": rank,
        "lora_alpha": 2 * rank,
        "bias": "none",
        "target_modules": sorted({module.rpartition(".")[2] for module in sizes}),
    }
    return adapter(directory, settings | config, tensors)


def prompt(directory, *, seed=0, tokens=3, width=WIDTH, **config):
    """Write a soft prompt."""
    random = np.random.default_rng(seed)
    settings = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "num_virtual_tokens": tokens,
        "token_dim": width,
        "num_transformer_submodules": 1,
    }
    tensors = {"prompt_embeddings": random.standard_normal((tokens, width), "f4")}
    return adapter(directory, settings | config, tensors)


def adapter(directory, config, tensors):
    """Write an adapter directory from its configuration and tensors."""
    made = _folder(directory)
    (made / CONFIG).write_text(json.dumps(config, indent=2))
    save_file(tensors, made / WEIGHTS, metadata={"format": "pt"})
    return made


def change_config(directory, **change):
    """Change keys of an adapter's configuration."""
    path = Path(directory) / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def _folder(directory):
    made = Path(directory)
    made.mkdir(parents=True, exist_ok=True)
    return made


def _gpt2(width, vocabulary, layers):
    shapes = {"transformer.wte.weight": (vocabulary, width)}
    for layer in range(layers):
        shapes[f"transformer.h.{layer}.attn.c_attn.weight"] = (width, 3 * width)
        shapes[f"transformer.h.{layer}.attn.c_proj.weight"] = (width, width)
    return shapes


def _llama(width, vocabulary, layers):
    shapes = {
        "model.embed_tokens.weight": (vocabulary, width),
        "lm_head.weight": (vocabulary, width),
    }
    for layer in range(layers):
        for part in "qkvo":
            shapes[f"model.layers.{layer}.self_attn.{part}_proj.weight"] = (width, width)
    return shapes


_SHAPES = {"gpt2": _gpt2, "llama": _llama}
_CLASSES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}
_TARGETS = {"gpt2": "transformer.h.{}.attn.c_attn", "llama": "model.layers.{}.self_attn.q_proj"}
_OUTPUTS = {"gpt2": 3, "llama": 1}
