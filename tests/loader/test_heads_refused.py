"""Adapters that cannot have a head on a base, and what encoders can do."""

import dataclasses
import importlib.util
import logging
import shutil
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertLMHeadModel,
    CodeGenConfig,
    CodeGenForCausalLM,
    GPT2LMHeadModel,
)

from dovetail.errors import IncompatibleBaseModel, InvalidInput, InvalidPayload
from dovetail.loader import open_base
from dovetail.loader.heads.head import make_head
from dovetail.loader.model import check_generates
from dovetail.loader.routing import check_task
from dovetail.registry.live import check_live_model
from dovetail.registry.payload import read_payload


def _load_beside(name):
    file = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"dovetail_tests_loader_{name}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


heads = _load_beside("heads_models")
directory, opened, adapter = heads.directory, heads.opened, heads.adapter
Attached, lora = heads.Attached, heads.lora


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        (
            "gpt2",
            peft.LoraConfig(task_type="TOKEN_CLS", target_modules=["c_attn"]),
            "labels tokens",
        ),
        (
            "t5",
            lora("q", "v"),
            r"does not hold classification_head\.dense\.bias, .*modules_to_save=\['classif",
        ),
        ("bert-masked", lora("query"), r"bert\.pooler\.dense\.bias.*modules_to_save=\['pooler'\]"),
        (
            "t5",
            peft.PromptTuningConfig(
                num_virtual_tokens=3, modules_to_save=["classification_head"], **heads.CLASSES
            ),
            "does not run on T5ForConditionalGeneration: Passing input embeddings",
        ),
        (
            "bart",
            peft.PromptTuningConfig(num_virtual_tokens=3, **heads.FEATURES),
            "cannot embed with an encoder-decoder model",
        ),
    ],
    ids=["tokens", "no-head", "no-pooler", "cannot-run", "prompt-in-an-encoder"],
)
def test_what_cannot_have_a_head_is_refused(opened, adapter, name, config, message):
    """The message says what to do; the base is left as it was."""
    payload = read_payload(adapter(name, config))
    modules = list(opened(name).model.modules())
    with pytest.raises(InvalidPayload, match=message):
        make_head(opened(name).model, payload)
    assert all(a is b for a, b in zip(modules, opened(name).model.modules(), strict=True))


def test_an_architecture_without_such_a_head_is_refused(adapter):
    """Its name is in the message."""
    payload = read_payload(adapter("gpt2", lora("c_attn")))
    config = CodeGenConfig(n_embd=32, n_layer=1, n_head=4, rotary_dim=4, vocab_size=64)
    other = CodeGenForCausalLM(config)
    with pytest.raises(
        IncompatibleBaseModel, match=r"no ModelForSequenceClassification .*'codegen'"
    ):
        make_head(other, payload)


def test_a_model_of_other_parts_is_refused(opened, adapter):
    """Where the body is not what the architecture's own classes are made of."""
    model = GPT2LMHeadModel(opened("gpt2").model.config)
    model.transformer.ln_f = torch.nn.Identity()
    payload = read_payload(adapter("gpt2", lora("c_attn")))
    with pytest.raises(IncompatibleBaseModel, match="is not made of the parts of GPT2Model"):
        make_head(model, payload)


def test_a_head_of_another_shape_is_refused(opened, adapter, tmp_path):
    """Its shape is in the message."""
    path = tmp_path / "edited"
    shutil.copytree(adapter("gpt2", lora("c_attn")), path)
    tensors = load_file(path / "adapter_model.safetensors")
    tensors["base_model.model.score.weight"] = torch.ones(3)
    save_file(tensors, path / "adapter_model.safetensors")
    with pytest.raises(InvalidPayload, match=r"score\.weight of the payload has shape \(3,\)"):
        make_head(opened("gpt2").model, read_payload(path))


def test_a_tensor_that_would_stay_unused_is_refused(opened, adapter, tmp_path):
    """As for adapters that write text."""
    path = tmp_path / "edited"
    shutil.copytree(adapter("gpt2", lora("c_attn")), path)
    tensors = load_file(path / "adapter_model.safetensors")
    for part in ("A", "B"):
        key = f"base_model.model.transformer.h.{{}}.attn.c_attn.lora_{part}.weight"
        tensors[key.format(9)] = tensors[key.format(0)].clone()
    save_file(tensors, path / "adapter_model.safetensors")
    with pytest.raises(InvalidPayload, match=r"h\.9\.attn\.c_attn.*unused"):
        make_head(opened("gpt2").model, read_payload(path))


@pytest.mark.parametrize("name", heads.ENCODERS)
def test_an_encoder_opens_with_its_own_weights(opened, name):
    """Its pooler where the checkpoint has one, and none that would be made up."""
    model = opened(name).model
    assert (model.pooler is not None) == (name == "bert")
    check_live_model(model, opened(name).checkpoint.manifest)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("dropped", "shown"), [(None, False), ("encoder.layer.1", True)])
def test_only_weights_that_are_missing_are_reported(directory, tmp_path, dropped, shown):
    """A head that an encoder has no use for is nothing to act on."""
    copied = tmp_path / "copied"
    shutil.copytree(directory("bert"), copied)
    tensors = load_file(copied / "model.safetensors")
    kept = {key: t for key, t in tensors.items() if dropped is None or dropped not in key}
    save_file(kept, copied / "model.safetensors", metadata={"format": "pt"})
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("transformers").addHandler(handler)
    try:
        open_base(copied, dtype="bfloat16").close()
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert any("LOAD REPORT" in record.getMessage() for record in records) == shown


def test_an_encoder_generates_no_text(opened, adapter):
    """The messages name what it does instead."""
    model = opened("bert").model
    with pytest.raises(InvalidInput, match=r"'bert.* is an encoder .*classify\(\).*embed\(\)"):
        check_generates(model, opened("bert").checkpoint.name)
    payload = read_payload(adapter("bert", lora("query")))
    payload = dataclasses.replace(payload, config=payload.config | {"task_type": "CAUSAL_LM"})
    with pytest.raises(IncompatibleBaseModel, match=r"BertModel is an encoder .*SEQ_CLS"):
        check_task(payload, model)
    check_generates(opened("gpt2").model, "gpt2")


def test_a_checkpoint_of_a_decoder_built_like_bert_still_writes(tmp_path):
    """Its class, or the mark of a decoder, decides."""
    config = BertConfig(**heads.SIZES, is_decoder=True)
    BertLMHeadModel(config).save_pretrained(tmp_path)
    with open_base(tmp_path) as base:
        check_generates(base.model, "decoder")
