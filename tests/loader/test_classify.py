"""Classifying and embedding through an open base: a registry's versions beside those that write."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from dovetail.errors import AdapterNotFound, IncompatibleBaseModel, InvalidInput, InvalidPayload
from dovetail.loader import Classification, Embedding, Row, open_base
from dovetail.registry.compatibility import check_against_base
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
lora, FEATURES = heads.lora, heads.FEATURES
WORDS = {"0": "bad", "1": "so-so", "2": "good"}


@pytest.fixture
def mixed(registry, directory, adapter, make_adapter):
    """A base with a classifier, an extractor and a writer, all from a registry."""
    base = directory("gpt2")
    writer = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn"])
    registry.register("mood", adapter("gpt2", lora("c_attn")), base=base)
    registry.register("writer", make_adapter("gpt2", writer), base=base)
    registry.register("meaning", adapter("gpt2", lora("c_attn", **FEATURES)), base=base)
    with open_base(base, registry=registry) as opened:
        for name in ("mood", "writer", "meaning"):
            opened.attach(f"{name}/1")
        yield opened


def test_adapters_of_a_registry_classify_write_and_embed_on_one_base(
    mixed, adapter, directory, texts
):
    """As PEFT does with each row alone; the record says which method runs an adapter's rows."""
    assert {one.reference: (one.task, one.verb, one.route) for one in mixed.attached} == {
        "mood/1": ("SEQ_CLS", "classify", "reference"),
        "writer/1": ("CAUSAL_LM", "generate", "native"),
        "meaning/1": ("FEATURE_EXTRACTION", "embed", "reference"),
    }
    rows = [Row(text, "writer/1") for text in texts]
    written = [each.token_ids for each in mixed.generate(rows, max_new_tokens=5)]
    classified = list(mixed.classify([Row(text, "mood/1") for text in texts], batch_size=4))
    path = adapter("gpt2", lora("c_attn"))
    alone = heads.logits_alone(directory("gpt2"), path, texts)
    assert torch.allclose(torch.tensor([each.logits for each in classified]), alone, atol=1e-4)
    assert {type(each) for each in classified} == {Classification}
    embedded = list(mixed.embed([Row(text, "meaning/1") for text in texts], pooling="last"))
    hidden = heads.hidden_alone(
        directory("gpt2"), adapter("gpt2", lora("c_attn", **FEATURES)), texts
    )
    for each, states in zip(embedded, hidden, strict=True):
        assert type(each) is Embedding
        assert np.allclose(each.vector, states[-1].numpy(), atol=1e-4)
    assert [each.token_ids for each in mixed.generate(rows, max_new_tokens=5)] == written
    check_live_model(mixed.model, mixed.checkpoint.manifest)


def test_calls_that_are_read_in_turns_do_not_disturb_each_other(mixed, texts):
    """One classifies while the other writes."""
    labels = [Row(text, "mood/1") for text in texts]
    prompts = [Row(text, "writer/1") for text in texts]
    expected = (
        [each.logits for each in mixed.classify(labels, batch_size=1)],
        [each.token_ids for each in mixed.generate(prompts, batch_size=1, max_new_tokens=5)],
    )
    classified = mixed.classify(labels, batch_size=1)
    written = mixed.generate(prompts, batch_size=1, max_new_tokens=5)
    found = [(next(classified).logits, next(written).token_ids) for _ in texts]
    assert [logits for logits, _ in found] == expected[0]
    assert [tokens for _, tokens in found] == expected[1]


@pytest.mark.parametrize(
    ("verb", "name", "said"),
    [
        ("generate", "mood/1", r"'mood/1' was trained to classify \(SEQ_CLS\); call classify\(\)"),
        ("generate", "meaning/1", r"trained to embed \(FEATURE_EXTRACTION\); call embed\(\)"),
        ("classify", "writer/1", r"trained to generate \(CAUSAL_LM\); call generate\(\)"),
        ("classify", "meaning/1", r"trained to embed \(FEATURE_EXTRACTION\); call embed\(\)"),
        ("embed", "writer/1", r"trained to generate \(CAUSAL_LM\); call generate\(\)"),
        ("embed", "mood/1", r"trained to classify \(SEQ_CLS\); call classify\(\)"),
    ],
)
def test_rows_for_another_method_are_refused(mixed, verb, name, said):
    """In a list before the first row runs; in rows that are still to be made when it is reached."""
    own = {"generate": "writer/1", "classify": "mood/1", "embed": "meaning/1"}[verb]
    rows = [*[Row("w5 w6", own)] * 40, Row("w7", name)]
    with pytest.raises(InvalidInput, match=said):
        getattr(mixed, verb)(rows)
    found = getattr(mixed, verb)(iter(rows), batch_size=1)
    assert next(found).error is None
    with pytest.raises(InvalidInput, match=said):
        list(found)


def test_a_row_names_one_head_alone(mixed):
    """Neither with a second adapter, nor where none is attached."""
    with pytest.raises(InvalidInput, match="trained to classify"):
        mixed.generate([Row("w5", ("writer/1", "mood/1"))])
    with pytest.raises(AdapterNotFound, match="'nobody'; attached are: meaning/1, mood/1"):
        list(mixed.classify([Row("w5", "nobody")]))


def test_a_detached_classifier_is_gone_and_can_come_back(mixed, texts):
    """The base generates as before in between."""
    rows = [Row(text, "mood/1") for text in texts]
    before = [each.logits for each in mixed.classify(rows)]
    mixed.detach("mood/1")
    with pytest.raises(AdapterNotFound):
        list(mixed.classify(rows))
    mixed.attach("mood/1")
    assert [each.logits for each in mixed.classify(rows)] == before


def test_heads_stay_where_weights_are_let_go_of(directory, adapter, make_adapter, texts):
    """A budget for one adapter that writes; both write and the classifier classifies."""
    writer = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn"])
    with open_base(directory("gpt2"), dtype="bfloat16", adapter_memory=1) as base:
        base.attach_directory(adapter("gpt2", lora("c_attn")), name="mood")
        for seed in (1, 2):
            base.attach_directory(make_adapter("gpt2", writer, seed=seed), name=f"writer{seed}")
        expected = [each.logits for each in base.classify([Row(text, "mood") for text in texts])]
        rows = [Row(text, f"writer{seed}") for text in texts for seed in (1, 2)]
        assert {each.error for each in base.generate(rows, max_new_tokens=2)} == {None}
        found = [each.logits for each in base.classify([Row(text, "mood") for text in texts])]
    assert found == expected


@pytest.mark.parametrize(
    ("recorded", "labels"),
    [
        ({"id2label": WORDS}, ("bad", "so-so", "good")),
        ({"id2label": {"0": "no", "1": "yes"}}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({}, ("LABEL_0", "LABEL_1", "LABEL_2")),
    ],
    ids=["recorded", "of-another-head", "not-recorded"],
)
def test_labels_are_those_that_the_training_run_recorded(
    registry, directory, adapter, texts, recorded, labels
):
    """As a hyperparameter, if it names as many as there are; each version has its own."""
    path = adapter("gpt2", lora("c_attn"))
    base = directory("gpt2")
    registry.register("mood", path, base=base, hyperparameters=recorded)
    with open_base(base, registry=registry) as opened:
        opened.attach_directory(path, name="plain")
        assert opened.attach("mood/1").labels == labels
        mood, plain = opened.classify([Row(texts[0], "mood/1"), Row(texts[0], "plain")])
    assert tuple(mood.scores) == labels
    assert mood.label == labels[int(np.argmax(mood.logits))]
    assert tuple(plain.scores) == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_an_encoder_takes_classifiers_from_a_registry(registry, directory, adapter, texts):
    """It writes nothing; it classifies, and embeds with no adapter at all."""
    base, path = directory("bert"), adapter("bert", lora("query", "value"))
    registry.register("mood", path, base=base)
    with open_base(base, registry=registry) as opened:
        opened.attach("mood@latest")
        found = list(opened.classify([Row(text, "mood@latest") for text in texts]))
        with pytest.raises(InvalidInput, match="is an encoder"):
            opened.generate([Row(texts[0], "mood@latest")])
        (bare,) = opened.embed([Row(texts[0])])
    alone = heads.logits_alone(base, path, texts)
    assert torch.allclose(torch.tensor([each.logits for each in found]), alone, atol=1e-4)
    assert bare.vector.shape == (32,)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("bert-masked", lambda: peft.LoraConfig(target_modules="all-linear", **FEATURES)),
        ("t5", lambda: lora("q", "v", **heads.WHOLE_HEAD)),
    ],
    ids=["made-up-pooler", "head-of-an-encoder-decoder"],
)
def test_what_only_the_head_has_is_not_looked_for_in_the_base(
    registry, directory, adapter, texts, name, config
):
    """Registering, attaching and running go through."""
    made = config()
    registry.register("odd", adapter(name, made), base=directory(name))
    verb = "embed" if made.task_type == "FEATURE_EXTRACTION" else "classify"
    with open_base(directory(name), registry=registry) as base:
        base.attach("odd/1")
        found = list(getattr(base, verb)([Row(text, "odd/1") for text in texts]))
    assert {each.error for each in found} == {None}


@pytest.mark.parametrize(
    ("task", "saved", "module", "fits"),
    [
        ("SEQ_CLS", ["classifier"], "classifier.dense", True),
        ("SEQ_CLS", ["classifier"], "classifier.original_module.dense", True),
        ("SEQ_CLS", ["score"], "classifier.dense", False),
        ("SEQ_CLS", ["classifier"], "transformer.h.9.attn.c_attn", False),
        ("CAUSAL_LM", ["classifier"], "classifier.dense", False),
        (None, ["classifier"], "classifier.dense", False),
        ("FEATURE_EXTRACTION", None, "pooler.dense", True),
        ("SEQ_CLS", None, "pooler.dense", False),
    ],
)
def test_a_module_that_neither_base_nor_head_has_is_refused(
    opened, adapter, tmp_path, task, saved, module, fits
):
    """A LoRA may sit on a part of what is saved whole, of adapters that have a head."""
    path = tmp_path / "edited"
    shutil.copytree(adapter("gpt2", lora("c_attn")), path)
    config = json.loads((path / "adapter_config.json").read_text())
    config |= {"task_type": task, "modules_to_save": saved}
    (path / "adapter_config.json").write_text(json.dumps(config))
    tensors = load_file(path / "adapter_model.safetensors")
    tensors[f"base_model.model.{module}.lora_A.weight"] = torch.ones(4, 8)
    tensors[f"base_model.model.{module}.lora_B.weight"] = torch.ones(8, 4)
    save_file(tensors, path / "adapter_model.safetensors")
    checkpoint = opened("gpt2").checkpoint
    known = {"hidden_size": checkpoint.hidden_size, "model_type": checkpoint.model_type}
    if fits:
        check_against_base(read_payload(path), checkpoint.manifest, **known)
    else:
        with pytest.raises(IncompatibleBaseModel, match="the base has no such module"):
            check_against_base(read_payload(path), checkpoint.manifest, **known)


def test_other_heads_are_refused_when_attaching(registry, directory, adapter):
    """The message says what heads there may be; nothing is attached."""
    config = peft.LoraConfig(task_type="TOKEN_CLS", target_modules=["c_attn"])
    registry.register("tagger", adapter("gpt2", config), base=directory("gpt2"))
    with open_base(directory("gpt2"), registry=registry) as base:
        with pytest.raises(InvalidPayload, match=r"labels tokens.*SEQ_CLS or FEATURE_EXTRACTION"):
            base.attach("tagger/1")
        assert base.attached == ()


def test_a_closed_base_neither_classifies_nor_embeds(directory):
    """It says that it is closed, before any row is read."""
    base = open_base(directory("gpt2"))
    base.close()
    for verb in ("classify", "embed"):
        with pytest.raises(InvalidInput, match="is closed"):
            getattr(base, verb)([])
