"""Architectures that are tried out when they are first used, and what each turns out to take."""

import copy
import shutil
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
)

from dovetail.errors import IncompatibleBaseModel
from dovetail.loader import Row, open_base

IDS = {"vocab_size": 64, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    "initializer_range": 0.5,
    **IDS,
}
WIDE = {"intermediate_size": 48, **SIZES}
WINDOWED = {"head_dim": 8, "num_key_value_heads": 2, "sliding_window": 6, **WIDE}
GEMMA = {**WINDOWED, "query_pre_attn_scalar": 8, "tie_word_embeddings": False}
TWO_PARTS = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 96,
    "init_std": 0.5,
    "decoder_start_token_id": 0,
    **IDS,
}
MT5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "initializer_factor": 4.0,
    "decoder_start_token_id": 0,
    **IDS,
}
LOCAL = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 6,
    "max_position_embeddings": 96,
    "initializer_range": 0.5,
    **IDS,
}
MPT = {
    "d_model": 32,
    "n_heads": 4,
    "n_layers": 2,
    "max_seq_len": 96,
    "initializer_range": 0.5,
    **IDS,
}
MAMBA = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 4,
    "initializer_range": 0.5,
    **IDS,
}
RWKV = {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 96, **IDS}
SWITCH = {
    **MT5,
    "num_decoder_layers": 2,
    "num_experts": 3,
    "num_sparse_encoder_layers": 1,
    "num_sparse_decoder_layers": 1,
}

# Per architecture: its type, its configuration, and how its rows enter a batch.
CASES = {
    "gpt-neox": ("gpt_neox", WIDE, "packed"),
    "phi": ("phi", WIDE, "packed"),
    "stablelm": ("stablelm", {"num_key_value_heads": 2, **WIDE}, "packed"),
    "gemma2": ("gemma2", GEMMA, "packed"),
    "gemma3": ("gemma3_text", GEMMA, "packed"),
    "cohere2": ("cohere2", WINDOWED, "packed"),
    "falcon": ("falcon", {"alibi": False, **SIZES}, "packed"),
    "falcon-alibi": ("falcon", {"alibi": True, **SIZES}, "padded"),
    "mpt": ("mpt", MPT, "whole"),  # its biases count columns
    "gpt-neo": ("gpt_neo", LOCAL, "whole"),  # its windows do
    "mamba": ("mamba", MAMBA, "whole"),
    "rwkv": ("rwkv", RWKV, "whole"),
    "pegasus": ("pegasus", TWO_PARTS, "padded"),
    "marian": ("marian", TWO_PARTS, "padded"),
    "mt5": ("mt5", MT5, "padded"),
    "switch": ("switch_transformers", SWITCH, "whole"),  # experts get some of the tokens
    "m2m-100": ("m2m_100", TWO_PARTS, "whole"),
}
SWITCH = {
    **MT5,
    "num_decoder_layers": 2,
    "num_experts": 3,
    "num_sparse_encoder_layers": 1,
    "num_sparse_decoder_layers": 1,
}
RECURRENT = {"mamba": ["in_proj"], "rwkv": ["key", "value"]}
# PEFT does not carry the state of recurrent models from step to step of a soft prompt's row.
VIRTUAL = {"soft-5": 5, "soft-7": 7}


@pytest.fixture(scope="module", params=CASES)
def name(request):
    """An architecture that no table knows, or that one names for a reason."""
    return request.param


@pytest.fixture(scope="module")
def directory(name, model_dir, tmp_path_factory):
    """A random model of the architecture with its tokenizer."""
    kind, options, _ = CASES[name]
    return save(kind, options, model_dir, tmp_path_factory.mktemp(name))


def save(kind, options, model_dir, made):
    """Write a random model with a tokenizer to a directory, and return that."""
    config = AutoConfig.for_model(kind, **copy.deepcopy(options))
    torch.manual_seed(7)
    model = class_of(config).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(made)
    for file in model_dir("t5" if config.is_encoder_decoder else "gpt2").glob("tokenizer*"):
        shutil.copy(file, made)
    return made


def class_of(config):
    """Choose transformers' class for a configuration."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def load(directory):
    """Load a model that nothing has touched."""
    return class_of(AutoConfig.from_pretrained(directory)).from_pretrained(directory).eval()


@pytest.fixture(scope="module")
def adapters(name, directory, tmp_path_factory):
    """A LoRA and two soft prompts of different length, by name; None is the bare base."""
    two = AutoConfig.from_pretrained(directory).is_encoder_decoder
    task = {"task_type": "SEQ_2_SEQ_LM" if two else "CAUSAL_LM"}
    sizes = {"num_attention_heads": 4, "num_layers": 2, "token_dim": 32, **task}
    configs = {"lora": peft.LoraConfig(target_modules=RECURRENT.get(name, "all-linear"), **task)}
    for soft, length in VIRTUAL.items():
        configs[soft] = peft.PromptTuningConfig(num_virtual_tokens=length, **sizes)
    made = {None: None}
    for seed, (adapter, config) in enumerate(configs.items()):
        made[adapter] = tmp_path_factory.mktemp(f"{name}-{adapter}")
        torch.manual_seed(seed)
        with warnings.catch_warnings(action="ignore"):
            model = peft.get_peft_model(load(directory), config)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.copy_(torch.randn_like(parameter) * 0.5)
            model.save_pretrained(made[adapter])
    return made


@pytest.fixture(scope="module")
def alone(name, directory, adapters, oracle):
    """Give a function: the tokens of a row alone, unpadded."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    bare = load(directory)
    own = type(oracle)(load=lambda _: load(directory), tokenize=lambda _: tokenizer)

    def write(text, adapter):
        if name in RECURRENT and adapter in VIRTUAL:
            prompt = load_file(adapters[adapter] / "adapter_model.safetensors")["prompt_embeddings"]
            return without_cache(bare, prompt, tokenizer(text)["input_ids"])
        return own.tokens(name, adapters[adapter], text, max_new_tokens=8)

    return write


def without_cache(model, prompt, ids):
    """Run all of a row again for each new token."""
    written = []
    embed = model.get_input_embeddings()
    with torch.no_grad():
        while len(written) < 8:
            states = torch.cat([prompt, embed(torch.tensor([*ids, *written]))])[None]
            token = int(model(inputs_embeds=states, use_cache=False).logits[0, -1].argmax())
            if token == IDS["eos_token_id"]:
                break
            written.append(token)
    return tuple(written)


def test_rows_of_any_architecture_get_what_each_would_alone(
    name, directory, adapters, alone, texts
):
    """The mode that is found, or that the table has, is right for LoRA, prompts and bare rows."""
    rows = [Row(text, adapter) for text in texts for adapter in adapters]
    with open_base(directory) as base:
        for adapter, place in adapters.items():
            if place is not None:
                base.attach_directory(place, name=adapter)
        before = {m: list(m._forward_pre_hooks) + list(m._forward_hooks) for m in modules(base)}
        found = list(base.generate(rows, batch_size=5, max_new_tokens=8))
        after = {m: list(m._forward_pre_hooks) + list(m._forward_hooks) for m in modules(base)}
        assert base._core.mode == CASES[name][2]
    assert after == before
    expected = [alone(row.text, row.adapter) for row in rows]
    assert [generation.error for generation in found] == [None] * len(rows)
    assert [generation.token_ids for generation in found] == expected
    of_adapter = {row.adapter: [] for row in rows}
    for row, tokens in zip(rows, expected, strict=True):
        of_adapter[row.adapter].append(tokens)
    assert len({str(tokens) for tokens in of_adapter.values()}) == len(adapters)


def modules(base):
    """All modules of a base."""
    return list(base.model.modules())


@pytest.mark.parametrize("kind", ["openai-gpt", "xlnet"])
def test_virtual_tokens_are_refused_where_a_model_takes_none(kind, model_dir, tmp_path):
    """Such models keep no keys and values, and begin with words only."""
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "d_model": 32, "d_inner": 48, **IDS}
    directory = save(kind, sizes, model_dir, tmp_path / "base")
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=3,
        num_layers=2,
        num_attention_heads=4,
        token_dim=32,
    )
    with warnings.catch_warnings(action="ignore"):
        peft.get_peft_model(load(directory), config).save_pretrained(tmp_path / "soft")
    with (
        open_base(directory) as base,
        pytest.raises(IncompatibleBaseModel, match="takes no virtual tokens"),
    ):
        base.attach_directory(tmp_path / "soft", name="soft")
