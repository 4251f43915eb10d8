"""Make what is measured: base checkpoints and adapter directories, without torch or PEFT."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 32
LAYERS = 12
RANK = 4
BYTES_PER_RANK = LAYERS * (WIDTH + 3 * WIDTH) * 4
SCORES = ("rouge1", "rouge2", "rougeL", "rougeLsum")

_MODULES = (
    ("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1),
)  # fmt: skip

BASE_CONFIG = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "vocab_size": 512,
}
LORA_CONFIG: dict[str, Any] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "auto_mapping": None,
    "base_model_name_or_path": "base",
    "bias": "none",
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": True,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 16,
    "lora_bias": False,
    "lora_dropout": 0.05,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": RANK,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["c_attn"],
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
}
"""What PEFT writes for a plain LoRA, key for key."""

_README = "---\nbase_model: base\nlibrary_name: peft\n---\n\n# Model Card\n" + "\n[More]\n" * 600


def write_safetensors(path: Path, tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    """Write float32 tensors as a safetensors file."""
    header, end = {}, 0
    for name, value in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(value.shape),
            "data_offsets": [end, end + value.nbytes],
        }
        end += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in tensors.values():
            file.write(value.data)


def make_base(directory: Path) -> Path:
    """Write a GPT-2 checkpoint: as many tensors as the real one, but narrow."""
    directory.mkdir(parents=True)
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (512, WIDTH),
        "transformer.wpe.weight": (128, WIDTH),
    }
    for layer in range(LAYERS):
        for module, ins, outs in _MODULES:
            shapes[f"transformer.h.{layer}.{module}.weight"] = (ins * WIDTH, outs * WIDTH)
            shapes[f"transformer.h.{layer}.{module}.bias"] = (outs * WIDTH,)
        for norm in ("ln_1", "ln_2"):
            shapes[f"transformer.h.{layer}.{norm}.weight"] = (WIDTH,)
            shapes[f"transformer.h.{layer}.{norm}.bias"] = (WIDTH,)
    write_safetensors(
        directory / "model.safetensors",
        {name: random.normal(size=shape).astype("f4") for name, shape in shapes.items()},
    )
    (directory / "config.json").write_text(json.dumps(BASE_CONFIG))
    return directory


def make_adapter(directory: Path, seed: int, *, all_new: bool = False, rank: int = RANK) -> Path:
    """Write a LoRA as ``save_pretrained`` does: configuration, weights, model card.

    Args:
        directory: Where; it is made.
        seed: Makes the weights differ.
        all_new: Make the configuration and the model card differ as well.
        rank: The LoRA's; the file has `BYTES_PER_RANK` for each.
    """
    directory.mkdir(parents=True)
    random = np.random.default_rng(seed)
    weights = {}
    for layer in range(LAYERS):
        module = f"base_model.model.transformer.h.{layer}.attn.c_attn"
        weights[f"{module}.lora_A.weight"] = random.normal(size=(rank, WIDTH)).astype("f4")
        weights[f"{module}.lora_B.weight"] = random.normal(size=(3 * WIDTH, rank)).astype("f4")
    write_safetensors(directory / "adapter_model.safetensors", weights)
    own = {"r": rank} | ({"run": seed} if all_new else {})
    (directory / "adapter_config.json").write_text(json.dumps(LORA_CONFIG | own, indent=2))
    (directory / "README.md").write_text(_README + (f"\nrun {seed}\n" if all_new else ""))
    return directory


def renew(adapter: Path) -> None:
    """Give an adapter other weights, so that it is new to everybody; most of them stay."""
    with (adapter / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-RANK * 4, os.SEEK_END)
        file.write(np.random.default_rng().normal(size=RANK).astype("f4").tobytes())


def make_checkpoint(directory: Path, *, size: int, tensors: int, shards: int) -> Path:
    """Write a checkpoint of many tensors in shards, of about ``size`` bytes in all.

    The sizes are those of a transformer: one embedding with an eighth of the bytes, matrices of
    equal size, and as many vectors.
    """
    directory.mkdir(parents=True)
    random = np.random.default_rng(0)
    parts = dict(_parts(size, tensors))
    width = -(-len(parts) // shards)
    names, places = list(parts), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        mine = names[shard * width : (shard + 1) * width]
        values = {
            name: random.integers(0, 2**30, parts[name], dtype="u4").view("f4") for name in mine
        }
        write_safetensors(directory / file, values)
        places |= dict.fromkeys(mine, file)
    index = {"metadata": {}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(BASE_CONFIG))
    return directory


def _parts(size: int, tensors: int) -> Iterator[tuple[str, int]]:
    values = size // 4
    yield "model.embed_tokens.weight", values // 8
    layers = max(1, (tensors - 1) // 2)
    for layer in range(layers):
        yield f"model.layers.{layer}.mlp.weight", (values - values // 8) // layers
        yield f"model.layers.{layer}.norm.weight", 1024
