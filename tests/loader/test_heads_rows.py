"""What rows get from heads: labels, scores, and errors of their own."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import peft
import pytest
import torch

from dovetail.errors import InvalidInput
from dovetail.loader import Row, open_base
from dovetail.loader.heads.labels import choose_problem, name_labels


def _load_beside(name):
    file = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"dovetail_tests_loader_{name}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


heads = _load_beside("heads_models")
directory, opened, adapter = heads.directory, heads.opened, heads.adapter
Attached, lora = heads.Attached, heads.lora


def assert_close(found, alone):
    """Compare logits, of which no two rows may be alike."""
    found = torch.tensor([each.logits for each in found])
    assert torch.allclose(found, alone, atol=1e-4, rtol=0), (found - alone).abs().max()
    assert len({tuple(row) for row in found.round(decimals=3).tolist()}) > 1


def test_a_regression_gives_plain_values(opened, adapter, directory, texts):
    """A head with one output has no label and no probabilities."""
    path = adapter("bert", lora("query"), labels=1)
    found = Attached(opened("bert"), a=path).classify([Row(text, "a") for text in texts])
    alone = heads.logits_alone(directory("bert"), path, texts, labels=1)
    assert_close(found, alone)
    assert all(each.scores == {"LABEL_0": each.logits[0]} for each in found)
    assert {each.label for each in found} == {None}


def test_several_labels_at_once_have_independent_probabilities(opened, adapter, directory, texts):
    """A ``config.json`` beside the adapter names the labels and says so; a call may say so, too."""
    path = adapter("gpt2", lora("c_attn"), seed=3)
    table = {"0": "red", "1": "green", "2": "blue"}
    told = {"id2label": table, "problem_type": "multi_label_classification"}
    rows = [Row(text, "a") for text in texts]
    asked = Attached(opened("gpt2"), a=path).classify(
        rows, problem_type="multi_label_classification"
    )
    (path / "config.json").write_text(json.dumps(told))
    found = Attached(opened("gpt2"), a=path).classify(rows)
    (path / "config.json").unlink()
    alone = heads.logits_alone(directory("gpt2"), path, texts)
    assert [list(each.scores) for each in found] == [["red", "green", "blue"]] * len(texts)
    scores = torch.tensor([list(each.scores.values()) for each in found])
    assert scores.allclose(alone.sigmoid(), atol=1e-4)
    assert [list(e.scores.values()) for e in asked] == [list(e.scores.values()) for e in found]


def test_labels_come_from_the_first_configuration_that_fits():
    """A table for another number of labels, with gaps or repetitions does not."""
    fits = {"id2label": {0: "no", 1: "yes"}}
    assert name_labels(2, {"id2label": {"0": "a"}}, fits) == ("no", "yes")
    assert name_labels(2, {"id2label": {"0": "a", "1": "a"}}, fits) == ("no", "yes")
    assert name_labels(2, {"id2label": {"0": "a", "7": "b"}}, {"id2label": []}) == (
        "LABEL_0",
        "LABEL_1",
    )
    assert choose_problem(1, {"problem_type": None}, {"problem_type": "odd"}) == "regression"
    assert choose_problem(2, {}) == "single_label_classification"


@pytest.mark.parametrize("verb", ["classify", "embed"])
def test_a_row_that_cannot_be_scored_has_an_error(opened, adapter, verb):
    """It does not disturb the rows beside it."""
    config = lora("c_attn") if verb == "classify" else lora("c_attn", **heads.FEATURES)
    run = getattr(Attached(opened("gpt2"), a=adapter("gpt2", config)), verb)
    bad = [Row("", "a"), Row("w5 " * 97, "a"), Row(7, "a")]
    found = run([Row("w5 w6", "a"), *bad, Row("w5 w6", "a")])
    assert [each.index for each in found] == list(range(5))
    first, *errors, last = [each.error for each in found]
    assert first is last is None
    assert [each.route for each in found] == ["reference", None, None, None, "reference"]
    assert "empty" in errors[0]
    assert "97 input tokens = 97, but the model has 96 positions" in errors[1]
    assert "int, not a string" in errors[2]
    if verb == "classify":
        assert (found[1].label, dict(found[1].scores), found[1].logits) == (None, {}, ())
        assert found[0].logits == pytest.approx(found[4].logits, abs=1e-5)
    else:
        assert found[1].vector is None


def test_too_little_memory_halves_a_batch(opened, adapter, texts):
    """A row for which alone it does not suffice has an error."""
    base = opened("gpt2")
    attached = Attached(base, a=adapter("gpt2", lora("c_attn")))
    rows = [Row(text, "a") for text in texts]
    expected = [each.logits for each in attached.classify(rows)]
    longest = max(range(len(texts)), key=lambda index: len(texts[index].split()))
    limit = len(texts[longest].split())

    def exhaust(module, inputs):
        count, width = inputs[0].shape
        if count > 2 or width == limit:
            raise torch.OutOfMemoryError

    handle = base.model.get_input_embeddings().register_forward_pre_hook(exhaust)
    try:
        found = attached.classify(rows)
    finally:
        handle.remove()
    assert f"not enough memory for this row alone ({limit} tokens)" in found.pop(longest).error
    del expected[longest]
    assert np.allclose([each.logits for each in found], expected, atol=1e-5)


def test_virtual_tokens_and_unused_positions_count_against_the_length(opened, adapter):
    """Of RoBERTa's positions one for the padding token is never used."""
    prompt = peft.PromptTuningConfig(num_virtual_tokens=5, **heads.CLASSES)
    for name, config, longest in (("gpt2", prompt, 91), ("roberta", lora("query"), 93)):
        attached = Attached(opened(name), a=adapter(name, config))
        fits, over = attached.classify(
            [Row("w5 " * length, "a") for length in (longest, longest + 1)]
        )
        assert fits.error is None
        assert "too long" in over.error


def test_a_row_without_an_end_is_an_error_where_the_head_reads_from_it(
    directory, adapter, tmp_path
):
    """T5's and BART's heads look at the last end-of-sequence token."""
    copied = tmp_path / "copied"
    shutil.copytree(directory("t5"), copied)
    tokenizer = json.loads((copied / "tokenizer.json").read_text()) | {"post_processor": None}
    (copied / "tokenizer.json").write_text(json.dumps(tokenizer))
    with open_base(copied) as base:
        attached = Attached(base, a=adapter("t5", lora("q", "v", **heads.WHOLE_HEAD)))
        without, ended = attached.classify([Row("w5 w6", "a"), Row("w5 w6 </s>", "a")])
    assert "no end-of-sequence token" in without.error
    assert ended.error is None


def test_options_that_cannot_be_used_are_refused(opened, adapter):
    """Before any row is run."""
    attached = Attached(opened("gpt2"), a=adapter("gpt2", lora("c_attn")))
    row = [Row("w5", "a")]
    with pytest.raises(InvalidInput, match="batch_size is 0"):
        attached.classify(row, batch_size=0)
    with pytest.raises(InvalidInput, match="problem_type is 'ranking'; it must be one of"):
        attached.classify(row, problem_type="ranking")
    with pytest.raises(InvalidInput, match="pooling is 'max'; it must be one of"):
        attached.embed(row, pooling="max")
    with pytest.raises(InvalidInput, match="name a SEQ_CLS adapter in every row"):
        attached.classify([Row("w5")])
    with pytest.raises(InvalidInput, match="to classify a row takes one adapter, not 'a', 'b'"):
        attached.classify([Row("w5", ("a", "b"))])
    assert attached.classify([Row("w5", ("a",))])[0].error is None
