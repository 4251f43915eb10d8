"""Versions from a registry: references, defaults, and the base that they were trained on."""

import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from dovetail.errors import DigestMismatch, IncompatibleBaseModel, InvalidInput, VersionNotFound
from dovetail.loader import Row, open_base


@pytest.fixture
def published(registry, model_dir, lora, prompt):
    """A registry with two versions of one adapter."""
    registry.register("summary", lora, base=model_dir("gpt2"))
    registry.register(
        "summary",
        prompt,
        base=model_dir("gpt2"),
        input_template="Summarise: {dialogue}",
        generation_config={"max_new_tokens": 3},
    )
    registry.promote("summary/1", "production")
    return registry


@pytest.fixture
def changed_dir(tmp_path, model_dir):
    """The GPT-2 with one weight changed."""
    directory = tmp_path / "changed"
    shutil.copytree(model_dir("gpt2"), directory)
    tensors = load_file(directory / "model.safetensors")
    name = "transformer.h.0.mlp.c_fc.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][0, 0] += 1
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture
def renamed_dir(tmp_path, model_dir):
    """The GPT-2 with a tokenizer in which two words have changed places."""
    directory = tmp_path / "renamed"
    shutil.copytree(model_dir("gpt2"), directory)
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    words = tokenizer["model"]["vocab"]
    words["w3"], words["w4"] = words["w4"], words["w3"]
    path.write_text(json.dumps(tokenizer))
    return directory


def test_a_version_is_attached_by_alias_and_found_by_number(published, model_dir, lora, texts):
    """Rows may name the reference as given or the version that it meant."""
    with open_base(model_dir("gpt2"), registry=published) as base:
        adapter = base.attach("summary@production")
        assert (adapter.reference, adapter.requested) == ("summary/1", "summary@production")
        assert adapter.base_model == base.fingerprint
        assert not adapter.base_mismatch
        assert base.attach("summary/1") is adapter
        rows = [Row(texts[0], "summary@production"), Row(texts[0], "summary/1")]
        first, second = base.generate(rows, max_new_tokens=4)
        assert first.token_ids == second.token_ids
        assert first.adapter is adapter
        base.detach("summary@production")
        assert base.attached == ()


def test_an_alias_that_moved_is_looked_up_when_it_is_attached_again(published, model_dir):
    """The name leads to the new version from then on; the old one stays until it is detached."""
    with open_base(model_dir("gpt2"), registry=published) as base:
        base.attach("summary@production")
        published.promote("summary/2", "production")
        assert base.attach("summary@production").reference == "summary/2"
        (generation,) = base.generate([Row("w5 w6", "summary@production")])
        assert generation.adapter.reference == "summary/2"
        assert [adapter.reference for adapter in base.attached] == ["summary/1", "summary/2"]


def test_generation_defaults_of_the_version_apply_unless_overridden(published, model_dir):
    """The version's limit holds for its rows alone; the call's goes before it."""
    with open_base(model_dir("gpt2"), registry=published) as base:
        adapter = base.attach("summary/2")
        assert adapter.input_template == "Summarise: {dialogue}"
        rows = [Row("w5 w6", "summary/2"), Row("w5 w6")]
        soft, bare = base.generate(rows)
        assert len(soft.token_ids) == 3
        assert len(bare.token_ids) > 3
        soft, _ = base.generate(rows, max_new_tokens=5)
        assert len(soft.token_ids) == 5


def test_defaults_that_cannot_be_used_are_refused_when_attaching(registry, model_dir, lora):
    """The error names the version and the option."""
    registry.register("odd", lora, base=model_dir("gpt2"), generation_config={"max_length": 20})
    with (
        open_base(model_dir("gpt2"), registry=registry) as base,
        pytest.raises(InvalidInput, match=r"'max_length' of the generation defaults of odd/1"),
    ):
        base.attach("odd/1")


def test_a_version_that_does_not_exist_is_not_found(published, model_dir):
    """The registry's own error passes through."""
    with (
        open_base(model_dir("gpt2"), registry=published) as base,
        pytest.raises(VersionNotFound, match="summary"),
    ):
        base.attach("summary/9")


def test_a_base_without_a_registry_says_where_to_give_one(gpt2, published):
    """A registry can be given where the reference is."""
    with pytest.raises(InvalidInput, match="give one here or to open_base"):
        gpt2.attach("summary/1")
    assert gpt2.attach("summary/1", registry=published).reference == "summary/1"


def test_a_changed_weight_is_refused_and_named(published, changed_dir):
    """The message counts the tensors that match and names the one that does not."""
    with (
        open_base(changed_dir, registry=published) as base,
        pytest.raises(IncompatibleBaseModel) as caught,
    ):
        base.attach("summary/1")
    assert caught.value.differing == ("transformer.h.0.mlp.c_fc.weight",)
    assert "transformer.h.0.mlp.c_fc.weight (other values)" in str(caught.value)
    assert "27 of 28 tensors match" in str(caught.value)
    assert "--allow-base-mismatch" in str(caught.value)


def test_a_mismatch_can_be_allowed_and_shows(published, changed_dir, caplog):
    """The adapter works, its record says that the base differs, and so does the log."""
    with open_base(changed_dir, registry=published) as base:
        adapter = base.attach("summary/1", allow_base_mismatch=True)
        assert adapter.base_mismatch
        assert adapter.base_model != base.fingerprint
        (generation,) = base.generate([Row("w5 w6", "summary/1")], max_new_tokens=2)
        assert generation.adapter.base_mismatch
        assert "summary/1, which was trained on" in caplog.text
        event = published.history("summary")[-1]
        assert (event.action, event.number) == ("base-mismatch", 1)
        assert event.details["attached_to"] == base.fingerprint
        with pytest.raises(IncompatibleBaseModel):
            base.attach("summary/1")


def test_another_tokenizer_is_refused_with_its_own_message(published, renamed_dir):
    """Equal weights are not enough where the same text becomes other tokens."""
    with open_base(renamed_dir, registry=published) as base:
        with pytest.raises(IncompatibleBaseModel, match="trained with another tokenizer"):
            base.attach("summary/1")
        assert base.attach("summary/1", allow_base_mismatch=True).base_mismatch


def test_opening_checks_the_expected_fingerprint(published, model_dir, changed_dir, caplog):
    """The wrong weights are not even loaded, unless that is asked for."""
    expected = published.resolve("summary/1").base_model
    with open_base(model_dir("gpt2"), registry=published, expected=expected) as base:
        assert base.fingerprint == expected
    with pytest.raises(IncompatibleBaseModel, match="27 of 28 tensors match"):
        open_base(changed_dir, registry=published, expected=expected)
    with pytest.raises(IncompatibleBaseModel, match="expected base model sha256:"):
        open_base(changed_dir, expected=expected)
    with open_base(
        changed_dir, registry=published, expected=expected, allow_base_mismatch=True
    ) as base:
        assert base.fingerprint != expected
    assert "as asked for" in caplog.text


def test_a_damaged_copy_is_never_used(published, model_dir, monkeypatch):
    """Files that differ from the registered ones are refused even when the pull let them pass."""
    with open_base(model_dir("gpt2"), registry=published) as base:
        other = published.pull("summary/2")
        monkeypatch.setattr(published, "fetch", lambda _version: other)
        with pytest.raises(DigestMismatch, match="summary/1"):
            base.attach("summary/1")
        assert base.attached == ()
