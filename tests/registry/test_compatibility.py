"""Adapters that PEFT itself saved, against bases they fit and bases they do not."""

import copy
import json

import pytest

pytest.importorskip("peft")

import peft
import torch
from peft.tuners.lora.config import BdLoraConfig
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from dovetail.errors import IncompatibleBaseModel
from dovetail.registry.compatibility import check_against_base
from dovetail.registry.fingerprint import Manifest, TensorEntry, read_base
from dovetail.registry.payload import read_payload

# PEFT 0.21 says these of its own calls and of what it sets right by itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*invalid shape.*lora_B.bias:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
]

HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4}


def llama(**change):
    """Make a Llama with grouped-query attention."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 40} | HEADS
    return LlamaForCausalLM(LlamaConfig(**(sizes | {"num_key_value_heads": 2} | change)))


def gpt2(**change):
    """Make a GPT-2."""
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(**(sizes | change)))


def opt(**change):
    """Make an OPT."""
    sizes = {"hidden_size": 16, "ffn_dim": 24, "vocab_size": 40, "word_embed_proj_dim": 16} | HEADS
    return OPTForCausalLM(OPTConfig(**(sizes | change)))


def t5(**change):
    """Make a T5."""
    sizes = {"d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 24, "num_layers": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=40, **(sizes | change)))


def bert(**change):
    """Make a BERT that classifies."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 40} | HEADS
    return BertForSequenceClassification(BertConfig(**(sizes | change)))


def mixtral(**change):
    """Make a mixture of experts, which checkpoints store expert by expert."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 40} | HEADS
    experts = {"num_local_experts": 4, "num_key_value_heads": 2}
    return MixtralForCausalLM(MixtralConfig(**(sizes | experts | change)))


BASES = {
    "gpt2": gpt2,
    "gpt2 wide": lambda: gpt2(n_embd=20),
    "gpt2 words": lambda: gpt2(vocab_size=48),
    "gpt2 deep": lambda: gpt2(n_layer=4),
    "llama": llama,
    "llama heads": lambda: llama(num_key_value_heads=4),
    "llama wide": lambda: llama(hidden_size=32),
    "llama tied": lambda: llama(tie_word_embeddings=True),
    "opt": opt,
    "opt projected": lambda: opt(word_embed_proj_dim=8),
    "t5": t5,
    "t5 wide": lambda: t5(d_model=24),
    "bert": bert,
    "mixtral": mixtral,
}


def causal(**options):
    """Configure a LoRA for generation."""
    return peft.LoraConfig(r=2, task_type="CAUSAL_LM", **options)


SOFT = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
PAIR = {"task_type": "SEQ_2_SEQ_LM", "num_virtual_tokens": 3}
ADAPTERS = {
    "gpt2 lora": ("gpt2", causal(target_modules=["c_attn"], fan_in_fan_out=True)),
    "gpt2 all-linear": ("gpt2", causal(target_modules="all-linear")),
    "gpt2 embeddings": ("gpt2", causal(target_modules=["wte", "c_attn", "lm_head"])),
    "gpt2 tokens": ("gpt2", causal(target_modules=["c_proj"], trainable_token_indices=[1, 2])),
    "gpt2 ia3": ("gpt2", peft.IA3Config(task_type="CAUSAL_LM")),
    "gpt2 prompt": ("gpt2", peft.PromptTuningConfig(**SOFT)),
    "gpt2 prefix": ("gpt2", peft.PrefixTuningConfig(**SOFT)),
    "llama lora": ("llama", causal(target_modules=["q_proj", "v_proj"])),
    "llama rslora": (
        "llama",
        causal(target_modules="all-linear", use_rslora=True, rank_pattern={"q_proj": 3}),
    ),
    "llama dora": ("llama", causal(target_modules="all-linear", use_dora=True)),
    "llama head": ("llama", causal(target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "llama lora on head": ("llama", causal(target_modules=["lm_head"])),
    "opt bias": ("opt", causal(target_modules=["out_proj"], lora_bias=True)),
    "llama blocks": (
        "llama",
        causal(
            target_modules=["q_proj", "o_proj"],
            use_bdlora=BdLoraConfig(
                target_modules_bd_a=["o_proj"], target_modules_bd_b=["q_proj"], nblocks=2
            ),
        ),
    ),
    "llama ia3": ("llama", peft.IA3Config(task_type="CAUSAL_LM")),
    "llama prefix": ("llama", peft.PrefixTuningConfig(**SOFT)),
    "llama loha": ("llama", peft.LoHaConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"])),
    "llama tied head": ("llama tied", causal(target_modules=["lm_head", "embed_tokens"])),
    "opt lora": ("opt", causal(target_modules=["q_proj", "v_proj"])),
    "opt encoder": ("opt", peft.PromptEncoderConfig(**SOFT)),
    "t5 lora": ("t5", peft.LoraConfig(r=2, task_type="SEQ_2_SEQ_LM", target_modules=["q", "v"])),
    "t5 ia3": ("t5", peft.IA3Config(task_type="SEQ_2_SEQ_LM")),
    "t5 prompt": ("t5", peft.PromptTuningConfig(**PAIR)),
    "t5 encoder": ("t5", peft.PromptEncoderConfig(encoder_reparameterization_type="LSTM", **PAIR)),
    "t5 prefix": ("t5", peft.PrefixTuningConfig(**PAIR)),
    "t5 multitask": ("t5", peft.MultitaskPromptTuningConfig(num_tasks=2, num_ranks=2, **PAIR)),
    "mixtral lora": ("mixtral", causal(target_modules=["q_proj"])),
    "mixtral experts": (
        "mixtral",
        causal(target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj"]),
    ),
    "bert lora": ("bert", peft.LoraConfig(r=2, task_type="SEQ_CLS", target_modules=["query"])),
    "bert prompt": ("bert", peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Save a base of each kind; give the model and what was read."""
    torch.manual_seed(0)
    found = {}
    for name, build in BASES.items():
        directory = tmp_path_factory.mktemp("base")
        model = build()
        model.save_pretrained(directory)
        found[name] = (model, read_base(directory))
    return found


@pytest.fixture(scope="module")
def adapters(bases, tmp_path_factory):
    """Let PEFT save an adapter of each kind; give its directory."""
    found = {}
    for name, (family, config) in ADAPTERS.items():
        directory = tmp_path_factory.mktemp("adapter")
        model = copy.deepcopy(bases[family][0])
        peft.get_peft_model(model, copy.deepcopy(config)).save_pretrained(directory)
        found[name] = directory
    return found


def check(directory, base):
    """Check an adapter's directory against a base."""
    check_against_base(
        read_payload(directory),
        base.manifest,
        hidden_size=base.hidden_size,
        model_type=base.model_type,
    )


def refused(directory, base):
    """Return the error of an adapter that does not fit."""
    with pytest.raises(IncompatibleBaseModel) as caught:
        check(directory, base)
    return caught.value


@pytest.mark.parametrize("name", ADAPTERS)
def test_what_peft_saves_fits_its_base(bases, adapters, name):
    """Every kind of adapter fits the base it was made on."""
    check(adapters[name], bases[ADAPTERS[name][0]][1])


@pytest.mark.parametrize(
    ("adapter", "base", "leaf", "words"),
    [
        ("llama lora", "opt", "self_attn.q_proj", "the base has no such module"),
        ("opt lora", "llama", "self_attn.q_proj", "the base has no such module"),
        ("gpt2 lora", "t5", "attn.c_attn", "the base has no such module"),
        ("t5 lora", "bert", "SelfAttention.q", "the base has no such module"),
        ("t5 ia3", "opt", "SelfAttention.k", "the base has no such module"),
        ("llama lora", "llama wide", "q_proj", "takes 16 and gives 16"),
        ("llama lora", "llama heads", "v_proj", "gives 8 values in the adapter, but 16 and 16"),
        ("gpt2 lora", "gpt2 wide", "c_attn", "but 20 and 60 in the base (another width)"),
        ("gpt2 ia3", "gpt2 wide", "c_attn", "48 values, but 60 values go out"),
        ("gpt2 embeddings", "gpt2 words", "lm_head", "another vocabulary"),
        ("gpt2 tokens", "gpt2 wide", "c_proj", "another width"),
        ("gpt2 prompt", "gpt2 wide", "prompt_embeddings", "width 16, but the base embeds"),
        ("opt encoder", "opt projected", "prompt_embeddings", "tokens in 8 values"),
        ("t5 prompt", "t5 wide", "prompt_embeddings", "in 24 values"),
        ("t5 multitask", "t5 wide", "prompt_embeddings", "in 24 values"),
        ("llama prefix", "llama heads", "prompt_embeddings", "width 8, but the base's are 16"),
        ("gpt2 prefix", "gpt2 deep", "prompt_embeddings", "for 2 layers, but the base has 4"),
        ("llama dora", "llama heads", "k_proj", "another number of outputs"),
    ],
)  # fmt: skip
def test_another_base_is_refused_with_the_leaf_and_both_sides(
    bases, adapters, adapter, base, leaf, words
):
    """An adapter of another architecture, width or vocabulary is refused by leaf."""
    error = refused(adapters[adapter], bases[base][1])
    assert error.leaf.endswith(leaf)
    assert words in str(error)
    assert words in error.problems[0]


def test_the_other_leaves_are_counted(bases, adapters):
    """The message spells out one leaf and counts the others."""
    error = refused(adapters["llama lora"], bases["opt"][1])
    assert len(error.problems) == 4
    assert "(and 3 more)" in str(error)


def test_a_deeper_base_of_equal_width_still_fits_a_lora(bases, adapters):
    """A LoRA on the first layers fits: the fingerprint, not the shape, tells the two apart."""
    check(adapters["gpt2 lora"], bases["gpt2 deep"][1])


@pytest.mark.parametrize(
    ("adapter", "base"),
    [("llama lora", "llama"), ("gpt2 all-linear", "gpt2"), ("bert lora", "bert")],
)
def test_a_checkpoint_without_the_prefix_fits(bases, adapters, adapter, base, tmp_path):
    """Checkpoints of the bare model name modules without the prefix."""
    bases[base][0].base_model.save_pretrained(tmp_path)
    check(adapters[adapter], read_base(tmp_path))


def test_gpt2_without_its_family_fits(bases, adapters):
    """Where the family is unknown, fan_in_fan_out tells that layers lie the other way."""
    base = bases["gpt2"][1]
    check_against_base(read_payload(adapters["gpt2 lora"]), base.manifest)


def without(manifest, module, *added):
    """Return a manifest in which one module is stored otherwise."""
    kept = [entry for entry in manifest.tensors if not entry.name.startswith(module)]
    new = [TensorEntry(f"{module}{name}", dtype, shape, "sha256:" + "0" * 64)
           for name, dtype, shape in added]  # fmt: skip
    return Manifest((*kept, *new))


@pytest.mark.parametrize(
    "stored",
    [
        [(".qweight", "I32", (2, 16)), (".scales", "F16", (1, 16))],
        [(".weight", "U8", (128, 1)), (".weight.absmax", "F32", (4,))],
        [(".weight_packed", "I32", (16, 2)), (".weight_shape", "I64", (2,))],
    ],
)
def test_packed_weights_are_only_looked_for(bases, adapters, stored):
    """Quantised weights have shapes of their own, so existence is all that is checked."""
    base = bases["llama"][1]
    manifest = without(base.manifest, "model.layers.0.self_attn.q_proj", *stored)
    check_against_base(
        read_payload(adapters["llama lora"]), manifest, hidden_size=16, model_type="llama"
    )


def test_a_removed_module_is_found(bases, adapters):
    """A module that is not stored in any layout is named."""
    manifest = without(bases["llama"][1].manifest, "model.layers.1.self_attn.v_proj")
    with pytest.raises(IncompatibleBaseModel) as caught:
        check_against_base(read_payload(adapters["llama lora"]), manifest)
    assert caught.value.leaf == "model.layers.1.self_attn.v_proj"


def edited(source, target, change, config=None):
    """Copy an adapter with other tensors."""
    tensors = load_file(source / "adapter_model.safetensors")
    save_file(change(tensors), target / "adapter_model.safetensors")
    found = json.loads((source / "adapter_config.json").read_text()) | (config or {})
    (target / "adapter_config.json").write_text(json.dumps(found))
    return target


def test_a_tensor_that_would_overwrite_the_base_is_refused(bases, adapters, tmp_path):
    """PEFT loads any name it finds; a base weight among them is refused unless it is equal."""
    name = "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"
    model, base = bases["llama"]
    own = model.model.layers[0].self_attn.q_proj.weight.detach().clone()
    source = adapters["llama lora"]
    check(edited(source, tmp_path, lambda tensors: tensors | {name: own}), base)
    error = refused(edited(source, tmp_path, lambda tensors: tensors | {name: own + 1}), base)
    assert error.leaf == "model.layers.0.self_attn.q_proj.weight"
    assert "would overwrite it" in str(error)
    half = edited(source, tmp_path, lambda tensors: tensors | {name: own.to(torch.float64)})
    assert "would overwrite it" in str(refused(half, base))


def test_a_resized_embedding_is_refused_with_the_remedy(bases, adapters, tmp_path):
    """An adapter that carries a resized embedding belongs to another base."""
    name = "base_model.model.model.embed_tokens.weight"
    grown = edited(
        adapters["llama lora"], tmp_path, lambda tensors: tensors | {name: torch.zeros(48, 16)}
    )
    assert "save the base after resizing" in str(refused(grown, bases["llama"][1]))


def test_modules_to_save_may_differ_from_the_base(bases, adapters, tmp_path):
    """A module trained whole is kept beside the base's and may have any content."""
    name = "base_model.model.lm_head.weight"
    trained = edited(
        adapters["llama head"], tmp_path, lambda tensors: tensors | {name: tensors[name] + 1}
    )
    check(trained, bases["llama"][1])


def test_token_rows_of_another_width_are_refused(bases, adapters, tmp_path):
    """Trained token rows must be as wide as the embedding."""
    name = "base_model.model.transformer.wte.token_adapter.trainable_tokens_delta"
    wide = edited(
        adapters["gpt2 tokens"], tmp_path, lambda tensors: tensors | {name: torch.ones(2, 20)}
    )
    assert "trainable_tokens_delta has width 20" in str(refused(wide, bases["gpt2"][1]))
