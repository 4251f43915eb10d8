"""Opening base models that are incomplete or of the wrong sort."""

import json
import shutil

import pytest

from dovetail.errors import BaseModelNotFound, IncompatibleBaseModel, InvalidInput
from dovetail.loader import Row, open_base
from dovetail.loader.model import load_model
from dovetail.registry.fingerprint import read_base


@pytest.fixture
def copy(tmp_path, model_dir):
    """A copy of the GPT-2 that a test may change."""
    directory = tmp_path / "copy"
    shutil.copytree(model_dir("gpt2"), directory)
    return directory


def test_a_base_without_a_tokenizer_opens_but_cannot_generate(copy):
    """The error says where the files belong."""
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with (
        open_base(copy) as base,
        pytest.raises(InvalidInput, match="put its tokenizer files there"),
    ):
        base.generate([Row("w5")])


def test_a_broken_tokenizer_is_reported_as_one(copy):
    """The error names the directory."""
    (copy / "tokenizer.json").unlink()
    with pytest.raises(InvalidInput, match=r"the tokenizer in .*copy.* cannot be loaded"):
        open_base(copy)


def test_a_tokenizer_without_padding_pads_with_the_end(copy, gpt2, texts):
    """Rows of different lengths are batched all the same."""
    path = copy / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["pad_token"]
    path.write_text(json.dumps(config))
    rows = [Row(text) for text in texts]
    with open_base(copy) as base:
        assert base.tokenizer.pad_token_id == base.tokenizer.eos_token_id
        found = [g.token_ids for g in base.generate(rows, max_new_tokens=5)]
    assert found == [g.token_ids for g in gpt2.generate(rows, max_new_tokens=5)]


def test_a_model_that_does_not_write_text_is_refused(copy):
    """The architecture is in the message."""
    path = copy / "config.json"
    config = json.loads(path.read_text())
    path.write_text(
        json.dumps(
            {
                "model_type": "vit",
                "architectures": ["ViTModel"],
                **{key: config[key] for key in ("dtype",) if key in config},
            }
        )
    )
    with pytest.raises(IncompatibleBaseModel, match=r"\(ViTModel\) cannot be loaded"):
        open_base(copy)


def test_code_in_a_checkpoint_is_not_run(copy):
    """A model class of the checkpoint's own is refused."""
    path = copy / "config.json"
    config = json.loads(path.read_text()) | {
        "model_type": "homemade",
        "auto_map": {
            "AutoConfig": "homemade.Config",
            "AutoModelForCausalLM": "homemade.Model",
        },
    }
    path.write_text(json.dumps(config))
    (copy / "homemade.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(IncompatibleBaseModel, match="cannot be loaded"):
        open_base(copy)


def test_weights_that_transformers_would_make_up_are_noticed(copy, model_dir):
    """A checkpoint without some tensor would be filled with random numbers."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IncompatibleBaseModel, match=r"h\.1\.mlp\.c_fc\.weight"):
        open_base(copy)


def test_weights_that_were_replaced_since_they_were_hashed_are_noticed(copy):
    """Then the model has the bytes of the file, and the file is not the one that was asked for."""
    from safetensors.numpy import load_file, save_file

    options = {"device": "cpu", "dtype": None, "attn_implementation": None}
    checkpoint = read_base(copy)
    load_model(checkpoint, **options)
    tensors = load_file(copy / "model.safetensors")
    tensors["transformer.h.1.mlp.c_fc.weight"][0, 0] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IncompatibleBaseModel, match=r"h\.1\.mlp\.c_fc\.weight has other values"):
        load_model(checkpoint, **options)


def test_a_directory_without_a_model_is_not_found(tmp_path):
    """The registry's error passes through."""
    with pytest.raises(BaseModelNotFound, match=r"config\.json"):
        open_base(tmp_path)
