"""Heads on the frozen base's weights: what PEFT says of each row alone, and no trace left."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    LlamaConfig,
    T5Config,
)

from dovetail.loader import Row, open_base
from dovetail.loader.heads.batch import padding_token
from dovetail.loader.heads.head import make_head
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
CLASSES, FEATURES, WHOLE_HEAD = heads.CLASSES, heads.FEATURES, heads.WHOLE_HEAD

CLASSIFIERS = {
    "bart-lora": ("bart", lambda: lora("q_proj", "v_proj", **WHOLE_HEAD)),
    "bert-lora": ("bert", lambda: lora("query", "value")),
    "bert-prompt": ("bert", lambda: peft.PromptTuningConfig(num_virtual_tokens=5, **CLASSES)),
    "bert-masked-pooler": (
        "bert-masked",
        lambda: lora("query", modules_to_save=["pooler", "classifier"]),
    ),
    "bloom-lora": ("bloom", lambda: lora("query_key_value")),
    "gpt2-dora": ("gpt2", lambda: lora("c_attn", use_dora=True, fan_in_fan_out=True)),
    "gpt2-lora": ("gpt2", lambda: lora("c_attn")),
    "gpt2-prefix": ("gpt2", lambda: peft.PrefixTuningConfig(num_virtual_tokens=4, **CLASSES)),
    "gpt2-prompt": ("gpt2", lambda: peft.PromptTuningConfig(num_virtual_tokens=5, **CLASSES)),
    "gpt2-p-tuning": (
        "gpt2",
        lambda: peft.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8, **CLASSES),
    ),
    "llama-all-linear": (
        "llama",
        lambda: peft.LoraConfig(target_modules="all-linear", **CLASSES),
    ),
    "llama-ia3": (
        "llama",
        lambda: peft.IA3Config(
            target_modules=["k_proj", "down_proj"],
            feedforward_modules=["down_proj"],
            **CLASSES,
        ),
    ),
    "llama-lily": ("llama", lambda: peft.LilyConfig(target_modules=["q_proj"], **CLASSES)),
    "llama-prompt": (
        "llama",
        lambda: peft.PromptTuningConfig(num_virtual_tokens=5, **CLASSES),
    ),
    "opt-lora": ("opt", lambda: lora("q_proj", "v_proj")),
    "roberta-lora": ("roberta", lambda: lora("query", "value")),
    "t5-lora": ("t5", lambda: lora("q", "v", **WHOLE_HEAD)),
}
EXTRACTORS = {
    "bart-lora": ("bart", lambda: lora("q_proj", **FEATURES)),
    "bert-lora": ("bert", lambda: lora("query", "value", **FEATURES)),
    "bert-masked-all-linear": (  # on the pooler, too, which PEFT makes up
        "bert-masked",
        lambda: peft.LoraConfig(target_modules="all-linear", **FEATURES),
    ),
    "gpt2-lora": ("gpt2", lambda: lora("c_attn", **FEATURES)),
    "gpt2-prompt": (
        "gpt2",
        lambda: peft.PromptTuningConfig(num_virtual_tokens=5, **FEATURES),
    ),
    "t5-lora": ("t5", lambda: lora("q", "v", **FEATURES)),
}


def assert_close(found, alone):
    """Compare logits, of which no two rows may be alike."""
    found = torch.tensor([each.logits for each in found])
    assert torch.allclose(found, alone, atol=1e-4, rtol=0), (found - alone).abs().max()
    assert len({tuple(row) for row in found.round(decimals=3).tolist()}) > 1


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_each_row_is_classified_as_by_peft_alone(opened, adapter, directory, texts, kind):
    """In batches of rows of different length, for each architecture and kind of adapter."""
    name, config = CLASSIFIERS[kind]
    path = adapter(name, config())
    found = Attached(opened(name), a=path).classify([Row(t, "a") for t in texts], batch_size=4)
    assert [each.index for each in found] == list(range(len(texts)))
    assert {each.route for each in found} == {"reference"}
    assert_close(found, heads.logits_alone(directory(name), path, texts))


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_the_base_is_as_if_never_touched(opened, adapter, texts, kind):
    """Its modules, attributes, hooks and weights are those of before."""
    name, config = CLASSIFIERS[kind]
    base, path = opened(name), adapter(name, config())
    rows = [Row(text, "a") for text in texts[:4]]
    leaves_no_trace(base, lambda: Attached(base, a=path).classify(rows))


@pytest.mark.parametrize("name", ["a", None], ids=["adapter", "bare"])
def test_hooks_that_transformers_leaves_behind_are_taken_off(
    directory, adapter, tmp_path, texts, name
):
    """It puts some on the layers of a model that is to record its hidden states."""
    copied = tmp_path / "copied"
    shutil.copytree(directory("t5"), copied)
    values = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(values | {"output_hidden_states": True}))
    with open_base(copied) as base:
        path = adapter("t5", lora("q", "v", **FEATURES))
        rows = [Row(text, name) for text in texts]
        leaves_no_trace(base, lambda: Attached(base, a=path).embed(rows))


def leaves_no_trace(base, run):
    """Compare the base after a run with the base before."""
    before = [(module, dict(vars(module)), _tables(module)) for module in base.model.modules()]
    run()
    after = list(base.model.modules())
    assert [id(module) for module, _, _ in before] == [id(module) for module in after]
    for module, attributes, tables in before:
        assert vars(module).keys() == attributes.keys()
        assert all(vars(module)[key] is value for key, value in attributes.items())
        assert _tables(module) == tables
    check_live_model(base.model, base.checkpoint.manifest)


def _tables(module):
    """Return what stands in a module's dictionaries, by identity."""
    return {
        key: {name: id(part) for name, part in value.items()}
        for key, value in vars(module).items()
        if isinstance(value, dict)
    }


def test_no_weight_of_the_base_is_copied(opened, adapter):
    """A head's model shares the base's tensors; its own are the classification head's."""
    base = opened("gpt2")
    head = make_head(base.model, read_payload(adapter("gpt2", lora("c_attn"))))
    shared = {tensor.data_ptr() for tensor in base.model.parameters()}
    own = {name for name, t in head._grafted.model.named_parameters() if t.data_ptr() not in shared}
    assert own == {"score.weight"}


def test_adapters_with_different_numbers_of_labels_share_a_base(opened, adapter, directory, texts):
    """Rows alternate between them; each has its own labels and PEFT's logits."""
    two = adapter("gpt2", lora("c_attn"), labels=2)
    five = adapter("gpt2", lora("c_attn", "c_proj"), labels=5, seed=1)
    rows = [Row(text, name) for text in texts for name in ("two", "five")]
    found = Attached(opened("gpt2"), two=two, five=five).classify(rows, batch_size=3)
    for name, path, labels, some in (("two", two, 2, found[0::2]), ("five", five, 5, found[1::2])):
        alone = heads.logits_alone(directory("gpt2"), path, texts, labels=labels)
        assert_close(some, alone)
        assert {each.adapter.reference for each in some} == {name}
        assert {tuple(each.scores) for each in some} == {
            tuple(f"LABEL_{index}" for index in range(labels))
        }
        assert torch.tensor([list(each.scores.values()) for each in some]).allclose(
            alone.softmax(-1), atol=1e-4
        )
        assert [each.label for each in some] == [f"LABEL_{i}" for i in alone.argmax(-1).tolist()]


def test_generation_is_the_same_after_classification(directory, adapter, make_adapter, texts):
    """With a LoRA for text attached to the same base, and without."""
    written = make_adapter(
        "gpt2", peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn"])
    )
    rows = [Row(text, name) for text in texts[:4] for name in (None, "writer")]
    with open_base(directory("gpt2")) as base:
        base.attach_directory(written, name="writer")
        before = [each.token_ids for each in base.generate(rows, max_new_tokens=6)]
        attached = Attached(base, a=adapter("gpt2", lora("c_attn")))
        attached.classify([Row(text, "a") for text in texts])
        after = [each.token_ids for each in base.generate(rows, max_new_tokens=6)]
    assert after == before


@given(
    rows=st.lists(
        st.lists(st.integers(0, 63), min_size=1, max_size=20).map(
            lambda ids: " ".join("</s>" if i == 1 else f"w{i}" if i > 2 else "<pad>" for i in ids)
        ),
        min_size=1,
        max_size=8,
    ),
    batch_size=st.integers(1, 8),
    kind=st.sampled_from(["gpt2-lora", "gpt2-prefix", "gpt2-prompt", "bloom-lora", "t5-lora"]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
def test_no_row_changes_another(opened, adapter, rows, batch_size, kind):
    """Whatever stands in the batch, padding and end tokens in the middle of texts included."""
    name, config = CLASSIFIERS[kind]
    attached = Attached(opened(name), a=adapter(name, config()))
    together = attached.classify([Row(text, "a") for text in rows], batch_size=batch_size)
    for text, found in zip(rows, together, strict=True):
        (alone,) = attached.classify([Row(text, "a")])
        assert found.error == alone.error
        assert np.allclose(found.logits, alone.logits, atol=1e-4, rtol=0)


def test_a_base_without_a_padding_token_takes_each_row_to_its_end(
    directory, adapter, tmp_path, texts
):
    """Even where the tokenizer pads with the token that a text ends with."""
    copied = tmp_path / "copied"
    shutil.copytree(directory("gpt2"), copied)
    values = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(values | {"pad_token_id": None}))
    path = adapter("gpt2", lora("c_attn"))
    rows = [*texts[:3], "w5 w6 </s>", "w5 w6"]
    with open_base(copied) as base:
        found = Attached(base, a=path).classify([Row(text, "a") for text in rows])
    assert_close(found, heads.logits_alone(copied, path, rows))
    assert found[3].logits != found[4].logits


@pytest.mark.parametrize(
    ("pad", "eos", "decides", "rows", "found"),
    [
        (7, 1, False, [[7], [3, 7]], 7),
        (None, 1, False, [[0], [3, 1]], 2),
        (-1, 1, False, [[3], [4]], 0),
        (7, 1, True, [[3, 1]], 7),
        (1, 1, True, [[3, 1], [0, 1]], 0),
        (None, [1, 0], True, [[3, 1]], 2),
    ],
    ids=["as-configured", "none", "not-a-token", "beside-the-end", "is-the-end", "two-ends"],
)
def test_padding_is_no_token_that_a_head_reads_from(pad, eos, decides, rows, found):
    """The configured one where it can be told from the end of a row, else one that can."""
    config = (T5Config if decides else LlamaConfig)(pad_token_id=pad, eos_token_id=eos)
    assert padding_token(config, rows) == found


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
@pytest.mark.parametrize("kind", EXTRACTORS)
def test_each_row_is_embedded_as_by_peft_alone(opened, adapter, directory, texts, kind, pooling):
    """Rows of the bare base between them."""
    name, config = EXTRACTORS[kind]
    path = adapter(name, config())
    rows = [Row(text, adapter) for text in texts for adapter in ("a", None)]
    found = Attached(opened(name), a=path).embed(rows, batch_size=4, pooling=pooling)
    pool = {"mean": lambda h: h.mean(0), "last": lambda h: h[-1], "cls": lambda h: h[0]}[pooling]
    for start, source, route in ((0, path, "reference"), (1, None, "native")):
        alone = heads.hidden_alone(directory(name), source, texts)
        some = found[start::2]
        for vector, hidden in zip((each.vector for each in some), alone, strict=True):
            assert vector.dtype == np.float32
            assert np.allclose(vector, pool(hidden).numpy(), atol=1e-4, rtol=0)
        assert {each.route for each in some} == {route}
    same = [np.allclose(a.vector, b.vector) for a, b in zip(found[0::2], found[1::2], strict=True)]
    assert not all(same)
