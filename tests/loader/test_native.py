"""Payloads that are read without PEFT: what is in them, what is refused, and what is left to it."""

import dataclasses
import json
import shutil
import warnings
from pathlib import Path

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from dovetail.errors import IncompatibleBaseModel, InvalidPayload
from dovetail.loader.native.hooks import Mix, ModuleHooks
from dovetail.loader.native.patterns import Patterns
from dovetail.loader.native.read import read_native
from dovetail.loader.routing import read_config
from dovetail.registry.payload import read_payload

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
ENCODER_DECODERS = ("t5", "bart")
ARCHITECTURES = ("gpt2", "llama", "opt", "bloom", "t5", "bart")
ATTENTION = "base_model.model.transformer.h.0.attn.c_attn"


def load(directory, **options):
    """Load a model that nothing has touched."""
    both = directory.name.startswith(ENCODER_DECODERS)
    auto = AutoModelForSeq2SeqLM if both else AutoModelForCausalLM
    model = auto.from_pretrained(directory, **options)
    return model.eval().requires_grad_(requires_grad=False)


def read(model, directory, **config):
    """Read a directory as a native adapter, with changes to its configuration."""
    payload = read_payload(directory)
    payload = dataclasses.replace(payload, config=payload.config | config)
    return read_native(model, payload, read_config(payload))


def task_of(kind):
    """Return the task that PEFT trains this architecture for."""
    return {"task_type": "SEQ_2_SEQ_LM" if kind in ENCODER_DECODERS else "CAUSAL_LM"}


@pytest.fixture(scope="module")
def model(model_dir):
    """A GPT-2."""
    return load(model_dir("gpt2"))


@pytest.fixture
def edited(tmp_path):
    """Give a function that copies an adapter and changes its configuration and tensors."""

    def edit(source, *, change=None, **config):
        target = tmp_path / "edited"
        shutil.copytree(source, target)
        values = json.loads((target / CONFIG).read_text())
        (target / CONFIG).write_text(json.dumps(values | config))
        tensors = load_file(target / WEIGHTS)
        if change is not None:
            change(tensors)
        save_file(tensors, target / WEIGHTS)
        return target

    return edit


def pad_header(directory, spaces):
    """Move the tensors of a file by some bytes, as the format allows."""
    path = directory / WEIGHTS
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip() + b" " * spaces
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def tensors_of(adapter):
    """Return the tensors of a LoRA."""
    return [tensor for pair in adapter.low_rank.values() for tensor in (pair.down, pair.up)]


def test_a_lora_is_its_saved_matrices_by_module(model, lora):
    """Names, values, scale, size and digest are those of the payload."""
    adapter = read(model, lora)
    saved = load_file(lora / WEIGHTS)
    assert adapter.kind == "lora"
    assert adapter.virtual_tokens == 0
    assert adapter.digest == read_payload(lora).digest
    assert set(adapter.low_rank) == {f"transformer.h.{layer}.attn.c_attn" for layer in range(2)}
    for name, pair in adapter.low_rank.items():
        assert torch.equal(pair.down, saved[f"base_model.model.{name}.lora_A.weight"])
        assert torch.equal(pair.up, saved[f"base_model.model.{name}.lora_B.weight"])
        assert pair.scale == 2.0
    kept = [tensor for name, tensor in saved.items() if "lora_B" in name]
    assert adapter.size == sum(tensor.nbytes for tensor in (*saved.values(), *kept))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists its mappings")
def test_tensors_are_the_mapped_file_itself(model, lora):
    """On the CPU and in the file's type nothing is copied; the mapping lives with the tensors."""

    def mapped():
        spans = []
        for line in Path("/proc/self/maps").read_text().splitlines():
            if line.endswith(f"{lora}/{WEIGHTS}"):
                first, last = line.split()[0].split("-")
                spans.append((int(first, 16), int(last, 16)))
        return spans

    before = len(mapped())
    adapter = read(model, lora)
    spans = mapped()
    for tensor in tensors_of(adapter):
        assert any(first <= tensor.data_ptr() < last for first, last in spans)
    del adapter, tensor
    assert len(mapped()) == before


@pytest.mark.parametrize("spaces", range(8, 16))
def test_tensors_at_odd_places_of_the_file_are_read(model, lora, edited, spaces):
    """The format does not promise that values are aligned."""
    expected = tensors_of(read(model, lora))
    directory = edited(lora)
    pad_header(directory, spaces)
    found = tensors_of(read(model, directory))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_tensors_are_cast_to_the_type_of_the_model(model_dir, lora):
    """A model in bfloat16 gets its adapters in bfloat16."""
    adapter = read(load(model_dir("gpt2"), dtype=torch.bfloat16), lora)
    saved = load_file(lora / WEIGHTS)
    pair = adapter.low_rank["transformer.h.1.attn.c_attn"]
    assert pair.down.dtype == pair.up.dtype == torch.bfloat16
    name = "base_model.model.transformer.h.1.attn.c_attn.lora_B.weight"
    assert torch.equal(pair.up, saved[name].bfloat16())
    kept = [tensor for name, tensor in saved.items() if "lora_B" in name]
    assert adapter.size == sum(tensor.numel() for tensor in (*saved.values(), *kept)) * 2


def test_a_file_that_changed_since_it_was_checked_is_refused(model, lora, edited):
    """The header that was read no longer says where the tensors are."""
    directory = edited(lora)
    payload = read_payload(directory)
    (directory / WEIGHTS).write_bytes((directory / WEIGHTS).read_bytes()[:-64])
    with pytest.raises(InvalidPayload, match="has changed since it was checked"):
        read_native(model, payload, read_config(payload))


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"modules_to_save": ["ln_f"]},
        {"trainable_token_indices": [4]},
        {"layer_replication": [[0, 2]]},
        {"target_parameters": ["x"]},
        {"ensure_weight_tying": True},
        {"use_qalora": True},
        {"init_lora_weights": "pissa"},
        {"target_modules": "all-linear"},
        {"target_modules": None},
        {"target_modules": ["nowhere"]},
        {"target_modules": ["attn"]},
    ],
    ids=lambda config: "-".join(f"{key}={value}" for key, value in config.items()),
)
def test_what_is_more_than_plain_lora_is_left_to_peft(model, lora, config):
    """Anything in the configuration that could change what the tensors mean."""
    assert read(model, lora, **config) is None


def test_a_start_that_left_the_base_alone_makes_no_difference(model, lora):
    """Some only choose where the training begins."""
    for start in ("gaussian", "orthogonal", "mica", False):
        assert read(model, lora, init_lora_weights=start) is not None


def test_embeddings_of_positions_are_left_to_peft(model, make_adapter):
    """They see one row of positions for all rows of a batch."""
    config = peft.LoraConfig(r=2, target_modules=["wpe"], **task_of("gpt2"))
    assert read(model, make_adapter("gpt2", config)) is None


def test_a_module_with_two_names_is_left_to_peft(model_dir, lora):
    """PEFT adapts it under one of them only."""
    model = load(model_dir("gpt2"))
    model.transformer.h[1].attn.c_attn = model.transformer.h[0].attn.c_attn
    assert read(model, lora) is None


def drop_layer(tensors):
    """Take the second layer's tensors out."""
    for name in [name for name in tensors if ".h.1." in name]:
        del tensors[name]


def test_missing_tensors_are_refused(model, lora, edited):
    """The message has the names that the payload should have."""
    with pytest.raises(InvalidPayload, match=r"lacks .*transformer\.h\.1\.attn\.c_attn\.lora_A"):
        read(model, edited(lora, change=drop_layer))


@pytest.mark.parametrize(
    "config",
    [
        {"layers_to_transform": [0], "layers_pattern": "h"},
        {"exclude_modules": ["h.1.attn.c_attn"]},
        {"target_modules": r"transformer\.h\.0\..*c_attn"},
    ],
    ids=["layers_to_transform", "exclude_modules", "expression"],
)
def test_tensors_that_the_configuration_leaves_out_are_refused(model, lora, config):
    """PEFT would drop the second layer's tensors without a word."""
    with pytest.raises(InvalidPayload, match=r"transformer\.h\.1\.attn\.c_attn.*unused"):
        read(model, lora, **config)


def test_a_left_over_tensor_is_refused(model, lora, edited):
    """Every tensor of the payload has a use."""
    directory = edited(lora, change=lambda t: t.update({"base_model.model.extra": torch.ones(2)}))
    with pytest.raises(InvalidPayload, match=r"'base_model\.model\.extra'.*unused"):
        read(model, directory)


def test_another_rank_than_configured_is_refused(model, lora):
    """The scale would be wrong."""
    with pytest.raises(InvalidPayload, match=r"has rank 4, but adapter_config\.json says 2"):
        read(model, lora, rank_pattern={"h.1.attn.c_attn": 2})


def test_a_pattern_that_is_no_expression_is_refused(model, lora):
    """The message names it."""
    with pytest.raises(InvalidPayload, match=r"alpha_pattern .*'\('"):
        read(model, lora, alpha_pattern={"(": 2})


def test_matrices_of_another_size_are_refused(model, lora, edited):
    """The message has the module and both sizes."""

    def widen(tensors):
        tensors[f"{ATTENTION}.lora_A.weight"] = torch.ones(4, 40)

    with pytest.raises(IncompatibleBaseModel, match=r"takes 40 and gives 96 .* 32 and 96 in the"):
        read(model, edited(lora, change=widen))


def test_a_vector_for_the_other_side_is_refused(model, make_adapter):
    """IA3's orientation says whether it was trained on inputs."""
    directory = make_adapter("gpt2", peft.IA3Config(**task_of("gpt2")))
    with pytest.raises(IncompatibleBaseModel, match="an IA3 vector of shape"):
        read(model, directory, feedforward_modules=[])


def test_missing_and_left_over_vectors_are_refused(model, make_adapter, edited):
    """IA3 is held to its configuration like LoRA."""
    directory = make_adapter("gpt2", peft.IA3Config(**task_of("gpt2")))
    with pytest.raises(InvalidPayload, match=r"mlp\.c_proj\.ia3_l.*unused"):
        read(model, directory, target_modules=["c_attn"], feedforward_modules=[])
    with pytest.raises(InvalidPayload, match=r"lacks .*transformer\.h\.1\.attn\.c_attn\.ia3_l"):
        read(model, edited(directory, change=drop_layer))


def test_equal_copies_of_the_base_are_passed_over_and_others_refused(
    model_dir, make_adapter, edited
):
    """PEFT saves the embedding beside LoRA on it, and would load it over the base's own."""
    model = load(model_dir("llama"))
    config = peft.LoraConfig(r=2, target_modules=["embed_tokens"], **task_of("llama"))
    directory = make_adapter("llama", config)
    copy = "base_model.model.model.embed_tokens.base_layer.weight"
    assert copy in load_file(directory / WEIGHTS)
    assert set(read(model, directory).low_rank) == {"model.embed_tokens"}
    directory = edited(directory, change=lambda tensors: tensors[copy].add_(1))
    with pytest.raises(InvalidPayload, match=r"overwrite .* own model\.embed_tokens\.weight"):
        read(model, directory)


class Packed(nn.Module):
    """A linear layer whose weight is stored in a type that it does not compute in."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().view(torch.int8)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x):
        """Multiply with the weight as it was."""
        return nn.functional.linear(x, self.weight.view(torch.float32))


def test_quantised_layers_take_adapters_in_the_type_of_the_model(model_dir, make_adapter):
    """Any layer with sizes of its input and output does, as those of bitsandbytes."""
    config = peft.LoraConfig(r=3, target_modules=["q_proj", "v_proj"], **task_of("llama"))
    directory = make_adapter("llama", config)
    ids = torch.arange(3, 10)[None]
    with warnings.catch_warnings(action="ignore"):
        oracle = peft.PeftModel.from_pretrained(load(model_dir("llama")), directory).eval()
    model = load(model_dir("llama"))
    for layer in model.model.layers:
        layer.self_attn.q_proj = Packed(layer.self_attn.q_proj)
    adapter = read(model, directory)
    assert {tensor.dtype for tensor in tensors_of(adapter)} == {torch.float32}
    hooks = ModuleHooks(model)
    hooks.watch(adapter)
    with torch.inference_mode(), hooks.rows(Mix([(adapter,)])):
        found = model(ids).logits
    torch.testing.assert_close(found, oracle(ids).logits, atol=1e-4, rtol=1e-4)


NAMES = st.lists(st.sampled_from(["a", "q", "layers", "0", "11", "x_q"]), min_size=1, max_size=4)
PATTERNS = st.one_of(
    NAMES.map(".".join), st.sampled_from(["q|a", r".*\.q", "layers.[01]+", "", "^a", "^a.q"])
)


@given(name=NAMES.map(".".join), patterns=st.lists(PATTERNS, max_size=5, unique=True))
def test_patterns_choose_as_peft_does(name, patterns):
    """The first that matches the end of the name, from its start or a dot."""
    table = {pattern: number for number, pattern in enumerate(patterns)}
    expected = table.get(get_pattern_key(table, name), -1)
    assert Patterns(table, default=-1, key="rank_pattern")[name] == expected


PROMPTS = {
    "prompt": lambda task: peft.PromptTuningConfig(num_virtual_tokens=5, **task),
    "p-tuning": lambda task: peft.PromptEncoderConfig(
        num_virtual_tokens=5, encoder_hidden_size=16, **task
    ),
    "multitask": lambda task: peft.MultitaskPromptTuningConfig(
        num_virtual_tokens=5, num_tasks=2, **task
    ),
}


def with_peft(directory, base):
    """Let PEFT load an adapter."""
    with warnings.catch_warnings(action="ignore"):
        return peft.PeftModel.from_pretrained(load(base), directory).eval()


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("sort", PROMPTS)
def test_prompts_are_what_peft_puts_before_the_input(kind, sort, model_dir, make_adapter):
    """Of prompt tuning, P-tuning and the first task of multitask prompt tuning."""
    directory = make_adapter(kind, PROMPTS[sort](task_of(kind)))
    adapter = read(load(model_dir(kind)), directory)
    oracle = with_peft(directory, model_dir(kind))
    expected = oracle.get_prompt(batch_size=1, task_ids=torch.tensor([0]))[0, :5]
    assert adapter.kind == "prompt"
    assert adapter.virtual_tokens == 5
    torch.testing.assert_close(adapter.prompt, expected)
    assert len(adapter.notes) == (sort == "multitask")


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("projected", [False, True], ids=["plain", "projected"])
def test_prefixes_are_what_peft_puts_in_the_cache(kind, projected, model_dir, make_adapter):
    """Layer by layer; in an encoder-decoder the self-attention's, and nothing for the cross."""
    options = {"prefix_projection": True, "encoder_hidden_size": 16} if projected else {}
    config = peft.PrefixTuningConfig(num_virtual_tokens=3, **options, **task_of(kind))
    directory = make_adapter(kind, config)
    adapter = read(load(model_dir(kind)), directory)
    cache = with_peft(directory, model_dir(kind)).get_prompt(batch_size=1)
    if kind in ENCODER_DECODERS:
        assert not cache.cross_attention_cache.layers
        assert not any(cache.is_updated.values())
        cache = cache.self_attention_cache
    assert adapter.kind == "prefix"
    assert adapter.virtual_tokens == 3
    assert len(adapter.prefix.keys) == len(adapter.prefix.values) == len(cache.layers)
    for layer, keys, values in zip(
        cache.layers, adapter.prefix.keys, adapter.prefix.values, strict=True
    ):
        assert torch.equal(keys, layer.keys[0])
        assert torch.equal(values, layer.values[0])


def test_a_prefix_for_other_layers_is_left_to_peft(model_dir, make_adapter):
    """Where layers, heads or sizes are not those of the model."""
    config = peft.PrefixTuningConfig(num_virtual_tokens=3, **task_of("llama"))
    directory = make_adapter("llama", config)
    model = load(model_dir("llama"))
    assert read(model, directory) is not None
    assert read(model, directory, num_attention_heads=1) is None


def test_soft_prompts_that_do_not_fit_are_refused(model, prompt, edited):
    """Left over, missing, or of another shape than configured."""
    directory = edited(prompt, change=lambda tensors: tensors.update(extra=torch.ones(2)))
    with pytest.raises(InvalidPayload, match="extra of the payload would stay unused"):
        read(model, directory)
    with pytest.raises(InvalidPayload, match="num_virtual_tokens=4"):
        read(model, prompt, num_virtual_tokens=4)
    payload = read_payload(prompt)
    config = read_config(payload)
    payload = dataclasses.replace(payload, peft_type="MULTITASK_PROMPT_TUNING")
    with pytest.raises(InvalidPayload, match="lacks prefix_task_cols, prefix_task_rows"):
        read_native(model, payload, config)


def test_a_soft_prompt_of_another_width_is_refused(model_dir, prompt):
    """The message has both widths."""
    model = load(model_dir("gpt2"))
    model.set_input_embeddings(nn.Embedding(64, 16))
    with pytest.raises(IncompatibleBaseModel, match=r"the prompt is 32 wide, .* are 16"):
        read(model, prompt)


def test_kinds_that_only_peft_has_are_left_to_it(model_dir, make_adapter):
    """Such as LoHa."""
    config = peft.LoHaConfig(r=2, target_modules=["q_proj"], **task_of("llama"))
    assert read(load(model_dir("llama")), make_adapter("llama", config)) is None
