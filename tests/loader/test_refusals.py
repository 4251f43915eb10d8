"""Payloads that cannot be attached as they are."""

import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from dovetail.errors import IncompatibleBaseModel, InvalidPayload
from dovetail.loader import Row, open_base

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@pytest.fixture
def edited(tmp_path):
    """Give a function that copies an adapter and changes its configuration and tensors."""

    def edit(source, *, config=None, change=None):
        target = tmp_path / "edited"
        shutil.copytree(source, target)
        values = json.loads((target / CONFIG).read_text())
        (target / CONFIG).write_text(json.dumps(values | (config or {})))
        tensors = load_file(target / WEIGHTS)
        if change is not None:
            change(tensors)
        save_file(tensors, target / WEIGHTS)
        return target

    return edit


def test_a_tensor_that_would_stay_unused_is_refused(gpt2, lora, edited):
    """PEFT would drop the second layer's tensors without a word; the message names them."""
    directory = edited(lora, config={"layers_to_transform": [0], "layers_pattern": "h"})
    with pytest.raises(InvalidPayload, match=r"transformer\.h\.1\.attn\.c_attn.*unused"):
        gpt2.attach_directory(directory)
    assert gpt2.attached == ()


def test_a_left_over_tensor_of_a_soft_prompt_is_refused(gpt2, prompt, edited):
    """A soft prompt is one tensor."""
    directory = edited(prompt, change=lambda t: t.update(extra=torch.ones(2)))
    with pytest.raises(InvalidPayload, match="extra"):
        gpt2.attach_directory(directory)


def test_a_missing_tensor_is_refused(gpt2, lora, edited):
    """PEFT would leave a random matrix in its place."""

    def drop(tensors):
        for name in [name for name in tensors if ".h.1." in name]:
            del tensors[name]

    with pytest.raises(InvalidPayload, match=r"lacks .*transformer\.h\.1\.attn\.c_attn"):
        gpt2.attach_directory(edited(lora, change=drop))


def test_a_config_key_that_peft_does_not_know_is_refused(gpt2, lora, edited):
    """A key from a later PEFT could change what the adapter does."""
    with pytest.raises(InvalidPayload, match=r"does not know 'hyper_gain'.*update peft"):
        gpt2.attach_directory(edited(lora, config={"hyper_gain": 2.0}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "XLORA"}, "made of other adapters"),
        ({"alora_invocation_tokens": [4, 5]}, "activated LoRA"),
        ({"target_modules": ["nowhere"]}, "PEFT cannot attach"),
        ({"task_type": "NO_SUCH_TASK"}, "NO_SUCH_TASK"),
    ],
)
def test_what_peft_cannot_do_is_an_error_that_says_so(gpt2, lora, edited, config, message):
    """The base model is as before afterwards."""
    before = [id(module) for module in gpt2.model.modules()]
    with pytest.raises((InvalidPayload, IncompatibleBaseModel), match=message):
        gpt2.attach_directory(edited(lora, config=config))
    assert [id(module) for module in gpt2.model.modules()] == before


@pytest.mark.parametrize(
    ("task", "error", "message"),
    [
        ("SEQ_2_SEQ_LM", IncompatibleBaseModel, "trained for SEQ_2_SEQ_LM"),
        ("SEQ_CLS", InvalidPayload, r"does not hold score\.weight"),
    ],
)
def test_an_adapter_for_another_task_is_refused(gpt2, lora, edited, task, error, message):
    """One of encoder-decoders does not go on a GPT-2, nor a classifier without its head."""
    with pytest.raises(error, match=message):
        gpt2.attach_directory(edited(lora, config={"task_type": task}))


def test_an_adapter_of_another_shape_is_refused(gpt2, make_adapter):
    """An adapter for a Llama does not fit a GPT-2."""
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    with pytest.raises(IncompatibleBaseModel, match="q_proj"):
        gpt2.attach_directory(make_adapter("llama", config))


def test_a_payload_that_would_overwrite_the_base_is_refused(gpt2, lora, edited):
    """PEFT loads a base weight in the payload over the base's own, for all adapters."""
    name = "base_model.model.transformer.wpe.weight"
    said = gpt2.model.transformer.wpe.weight.clone()
    directory = edited(lora, change=lambda t: t.update({name: torch.zeros(96, 32)}))
    with pytest.raises((InvalidPayload, IncompatibleBaseModel), match="wpe"):
        gpt2.attach_directory(directory)
    assert torch.equal(gpt2.model.transformer.wpe.weight, said)


def test_copies_of_base_weights_do_no_harm(model_dir, make_adapter, texts, peft_alone):
    """PEFT saves the embedding beside a LoRA on it; an equal copy is left out."""
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["embed_tokens"])
    directory = make_adapter("llama", config)
    assert any("base_layer" in name for name in load_file(directory / WEIGHTS))
    with open_base(model_dir("llama")) as base:
        base.attach_directory(directory, name="embedding")
        rows = [Row(text, "embedding") for text in texts]
        found = list(base.generate(rows, max_new_tokens=4))
    expected = peft_alone("llama", directory, texts, max_new_tokens=4)
    assert [generation.token_ids for generation in found] == expected


def test_an_adapter_that_rewrites_the_base_is_refused(gpt2, lora, edited):
    """PiSSA takes its start out of the base weights whenever it is loaded."""
    said = {name: value.clone() for name, value in gpt2.model.state_dict().items()}
    with pytest.raises(InvalidPayload, match="path_initial_model_for_weight_conversion"):
        gpt2.attach_directory(edited(lora, config={"init_lora_weights": "pissa"}))
    for name, value in gpt2.model.state_dict().items():
        assert torch.equal(value, said[name])
