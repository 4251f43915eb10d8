"""Models in memory against manifests: what passes, what is named when it does not."""

import copy

import pytest

pytest.importorskip("peft")

import peft
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
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
from dovetail.registry.checkpoint import find_checkpoint, open_sources
from dovetail.registry.fingerprint import Manifest, TensorEntry, read_manifest
from dovetail.registry.live import check_live_model

# PEFT 0.21 says these of its own calls and of what it sets right by itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]

MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=32)
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=40,
        )
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            ffn_dim=24,
            vocab_size=40,
            word_embed_proj_dim=16,
        )
    ),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(d_model=16, d_kv=8, num_heads=2, d_ff=24, num_layers=2, vocab_size=40)
    ),
    "bert": lambda: BertForSequenceClassification(
        BertConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            vocab_size=40,
        )
    ),
}
ADAPTERS = {
    "lora": ("gpt2", peft.LoraConfig(target_modules=["c_attn"], task_type="CAUSAL_LM")),
    "lora on embeddings": ("gpt2", peft.LoraConfig(target_modules=["wte", "lm_head"])),
    "dora and a head": (
        "llama",
        peft.LoraConfig(target_modules="all-linear", use_dora=True, modules_to_save=["lm_head"]),
    ),
    "trainable tokens": (
        "gpt2",
        peft.LoraConfig(target_modules=["c_attn"], trainable_token_indices=[1]),
    ),
    "classifier": ("bert", peft.LoraConfig(target_modules=["query"], task_type="SEQ_CLS")),
    "ia3": ("t5", peft.IA3Config(task_type="SEQ_2_SEQ_LM")),
    "prompt": ("opt", peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
    "prefix": ("llama", peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
    "encoder": ("t5", peft.PromptEncoderConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=2)),
    "layer norms": ("gpt2", peft.LNTuningConfig(target_modules=["ln_1"])),
    "vera": ("llama", peft.VeraConfig(target_modules=["q_proj"])),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Save one model of each family and give its directory and manifest."""
    torch.manual_seed(0)
    found = {}
    for name, build in MODELS.items():
        directory = tmp_path_factory.mktemp(name)
        model = build()
        model.save_pretrained(directory)
        found[name] = (model.eval(), directory, read_manifest(directory))
    return found


def refused(model, manifest, **options):
    """Return the error of a model that does not match."""
    with pytest.raises(IncompatibleBaseModel) as caught:
        check_live_model(model, manifest, **options)
    return caught.value


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_matches_its_manifest(saved, name):
    """A model in memory has the tensors of what it saved."""
    model, _, manifest = saved[name]
    check_live_model(model, manifest)


@pytest.mark.parametrize("name", MODELS)
def test_what_has_the_bytes_of_its_file_is_not_hashed(saved, name):
    """Where the files are at hand, only what differs from them is looked at further."""
    model, directory, manifest = saved[name]
    hashed = []
    changed = copy.deepcopy(model)
    next(changed.parameters()).data.flatten()[-1] += 1
    with open_sources(find_checkpoint(directory)) as files:
        check_live_model(
            model, manifest, files=files, progress=lambda _, total: hashed.append(total)
        )
        error = refused(changed, manifest, files=files)
    assert not hashed
    assert (len(error.differing), error.matching) == (1, error.total - 1)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_without_its_head_matches(saved, name):
    """Loaded without the head, names lose their prefix, and the rest still matches."""
    _, directory, manifest = saved[name]
    check_live_model(AutoModel.from_pretrained(directory), manifest)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_a_manifest_without_the_prefix_matches(saved, name, tmp_path):
    """A checkpoint of the bare model matches the one with a head, but for the new head."""
    model, _, _ = saved[name]
    model.base_model.save_pretrained(tmp_path)
    manifest = read_manifest(tmp_path)
    ignore = {"gpt2": (), "llama": ("lm_head",), "bert": ("classifier",)}[name]
    check_live_model(model, manifest, ignore=ignore)
    if ignore:
        assert refused(model, manifest).differing[0].startswith(ignore[0])


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_around_the_model_changes_nothing(saved, name):
    """Whatever PEFT wraps around a model, the base inside matches."""
    family, config = ADAPTERS[name]
    model, _, manifest = saved[family]
    wrapped = peft.get_peft_model(copy.deepcopy(model), copy.deepcopy(config))
    check_live_model(wrapped, manifest)


def test_a_changed_base_under_an_adapter_is_found(saved):
    """A weight that changed under the adapter is named as the base names it."""
    model, _, manifest = saved["gpt2"]
    wrapped = peft.get_peft_model(copy.deepcopy(model), ADAPTERS["lora"][1])
    with torch.no_grad():
        wrapped.base_model.model.transformer.h[1].attn.c_attn.base_layer.weight[0, 0] += 1
    assert refused(wrapped, manifest).differing == ("transformer.h.1.attn.c_attn.weight",)


def test_one_changed_value_is_named(saved):
    """The error counts what matches and names what differs."""
    model, _, manifest = saved["llama"]
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight[3, 2] += 1e-6
    error = refused(changed, manifest)
    assert error.differing == ("model.layers.1.mlp.up_proj.weight",)
    assert (error.matching, error.total) == (len(manifest.tensors) - 1, len(manifest.tensors))
    assert "20 of 21 tensors match. model.layers.1.mlp.up_proj.weight has other values" in str(
        error
    )


def test_only_the_first_differences_are_spelled_out(saved):
    """A wholly different model gives three names and a count."""
    _, _, manifest = saved["llama"]
    torch.manual_seed(1)
    error = refused(MODELS["llama"](), manifest)
    assert len(error.differing) > 3
    assert f"and {len(error.differing) - 3} more" in str(error)


def test_swapped_layers_are_found(saved):
    """The same tensors under each other's names are not the same model."""
    model, _, manifest = saved["gpt2"]
    swapped = copy.deepcopy(model)
    swapped.transformer.h = nn.ModuleList(reversed(swapped.transformer.h))
    assert refused(swapped, manifest).differing


def test_another_type_is_said_as_such(saved):
    """A model loaded in bfloat16 is told apart from one with other values."""
    _, directory, manifest = saved["opt"]
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    assert "is loaded as bfloat16, recorded as F32" in str(refused(model, manifest))


def test_a_model_saved_in_bfloat16_matches(saved, tmp_path):
    """Types that NumPy does not know are hashed all the same."""
    model, _, _ = saved["gpt2"]
    half = copy.deepcopy(model).to(torch.bfloat16)
    half.save_pretrained(tmp_path)
    check_live_model(half, read_manifest(tmp_path))


def test_a_resized_vocabulary_is_said_as_such(saved):
    """Another number of embeddings is called another vocabulary."""
    model, _, manifest = saved["gpt2"]
    resized = copy.deepcopy(model)
    resized.resize_token_embeddings(48, mean_resizing=False)
    error = refused(resized, manifest)
    assert "transformer.wte.weight has a vocabulary of 48, recorded 40" in str(error)
    assert error.differing == ("transformer.wte.weight",)


def test_other_names_for_the_same_content_match(saved):
    """Where the checkpoint uses names unlike the model's, equal content is enough."""
    model, _, manifest = saved["llama"]
    renamed = Manifest(
        tuple(
            TensorEntry(f"old.{number}", entry.dtype, entry.shape, entry.sha256)
            for number, entry in enumerate(manifest.tensors)
        )
    )
    check_live_model(model, renamed)


def test_experts_that_are_stored_one_by_one_match(tmp_path):
    """Experts fused in memory match the tensors of each, and a changed expert does not."""
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4}
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 40}
    model = MixtralForCausalLM(MixtralConfig(**sizes, **heads))
    model.save_pretrained(tmp_path)
    manifest = read_manifest(tmp_path)
    check_live_model(model, manifest)
    with torch.no_grad():
        model.model.layers[0].mlp.experts.gate_up_proj[2, 30, 3] += 1
    assert refused(model, manifest).differing == ("model.layers.0.mlp.experts.gate_up_proj",)


def test_tied_weights_count_once(saved):
    """A tensor with two names in the model is one tensor."""
    model, _, manifest = saved["gpt2"]
    assert model.lm_head.weight is model.transformer.wte.weight
    empty = refused(model, Manifest(()))
    assert empty.total == len(manifest.tensors)


def test_a_model_without_values_is_refused(saved):
    """On the meta device there is nothing to hash, and the message says what to do."""
    _, _, manifest = saved["gpt2"]
    with torch.device("meta"):
        model = MODELS["gpt2"]()
    assert "meta device" in str(refused(model, manifest))


class Odd(nn.Module):
    """A module with buffers, an empty tensor, a transposed one and a view."""

    def __init__(self):
        super().__init__()
        self.turned = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.upper = nn.Parameter(torch.arange(8.0)[4:])
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("lost", torch.ones(3), persistent=False)


@pytest.fixture
def odd_manifest(tmp_path):
    """The manifest of such a module, from its file."""
    tensors = {name: tensor.contiguous() for name, tensor in Odd().state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    return read_manifest(tmp_path)


def test_layout_in_memory_does_not_matter(odd_manifest):
    """A transposed tensor and a view have the bytes that they are saved with."""
    plain = Odd()
    plain.turned = nn.Parameter(plain.turned.detach().contiguous())
    check_live_model(Odd(), odd_manifest)
    check_live_model(plain, odd_manifest)


def test_buffers_are_checked_only_where_the_manifest_names_them(odd_manifest):
    """A recorded buffer must match, one that is not recorded or not saved need not."""
    model, manifest = Odd(), odd_manifest
    assert manifest.get("kept")
    assert manifest.get("lost") is None
    model.lost += 1
    check_live_model(model, manifest)
    model.kept += 1
    assert refused(model, manifest).differing == ("kept",)
    without = Manifest(tuple(entry for entry in manifest.tensors if entry.name != "kept"))
    check_live_model(model, without)


def test_ignored_modules_are_not_checked(saved):
    """A module that the caller leaves out may differ, its namesakes may not."""
    model, _, manifest = saved["bert"]
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.classifier.weight += 1
    check_live_model(changed, manifest, ignore=("classifier",))
    assert refused(changed, manifest, ignore=("class",)).differing == ("classifier.weight",)


def test_progress_is_told(saved):
    """Hashing a model tells how far it is."""
    model, _, manifest = saved["gpt2"]
    calls = []
    check_live_model(model, manifest, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] > 0
