"""The base that is shipped is the one that the tests mean, and its recipe runs."""

import logging

import pytest
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from dovetail.demo import BASE_DIRECTORY
from dovetail.demo.base_recipe import INSTRUCTIONS, ExampleMaker, main
from dovetail.demo.corpus import make_corpus
from dovetail.registry.fingerprint import read_base

FINGERPRINT = "sha256:72b83fba2afd9960e07ed15702764de16feb1b1b8f1534bd4ea060cd126fbcc5"


@pytest.fixture(scope="module")
def shipped():
    """The shipped tokenizer."""
    return AutoTokenizer.from_pretrained(BASE_DIRECTORY)


def test_shipped_base_has_its_fingerprint():
    """The weights in the package are pinned: adapters in the docs and tests belong to them."""
    base = read_base(BASE_DIRECTORY)
    assert base.manifest.fingerprint == FINGERPRINT
    assert base.parameter_count == 572_352
    assert base.architecture == "LlamaForCausalLM"
    assert base.hidden_size == 96
    assert base.dtype == "F32"


def test_shipped_base_is_small():
    """All of it together stays below 3 MB."""
    assert sum(path.stat().st_size for path in BASE_DIRECTORY.iterdir()) < 3_000_000


def test_shipped_base_loads_in_silence(caplog):
    """Loading model and tokenizer says nothing that a person would have to read."""
    transformers_logging.enable_propagation()
    try:
        model = AutoModelForCausalLM.from_pretrained(BASE_DIRECTORY)
        AutoTokenizer.from_pretrained(BASE_DIRECTORY)
    finally:
        transformers_logging.disable_propagation()
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert model.generation_config.eos_token_id == 1
    assert model.generation_config.pad_token_id == 0


def test_any_text_comes_back_from_the_tokenizer(shipped):
    """Bytes that the corpus never had are encoded too."""
    text = "Zoë: 你好 — what about\nMonday?"
    assert shipped.decode(shipped(text)["input_ids"]) == text


def test_words_of_the_corpus_are_single_tokens(shipped):
    """The held-out dialogues need hardly more tokens than they have words and marks."""
    for row in make_corpus(sizes={"test": 50})["test"]:
        assert len(shipped(row.dialogue)["input_ids"]) < 100
        assert len(shipped(row.summary)["input_ids"]) < 30


def test_base_never_learns_the_word_of_the_demo():
    """No instruction of the base is the word that the adapters are asked with."""
    assert "Summarise" not in {instruction for instruction, *_ in INSTRUCTIONS}
    maker = ExampleMaker(make_corpus(sizes={"base": 50})["base"], seed=0)
    assert not [1 for _ in range(2000) if "ummari" in maker.draw().prompt]


def test_examples_are_the_same_for_a_seed():
    """Two makers with one seed draw the same examples."""
    rows = make_corpus(sizes={"base": 50})["base"]
    first, second = ExampleMaker(rows, seed=1), ExampleMaker(rows, seed=1)
    assert [first.draw() for _ in range(20)] == [second.draw() for _ in range(20)]


def test_recipe_runs(tmp_path):
    """A few steps of the recipe give a base that loads, of the shipped shape."""
    out = tmp_path / "base"
    result = CliRunner().invoke(main, ["--out", str(out), "--steps", "3"])
    assert result.exit_code == 0, result.output
    made, shipped = read_base(out), read_base(BASE_DIRECTORY)
    assert made.manifest.fingerprint != shipped.manifest.fingerprint
    assert made.tokenizer_digest == shipped.tokenizer_digest
    assert [(t.name, t.shape) for t in made.manifest.tensors] == [
        (t.name, t.shape) for t in shipped.manifest.tensors
    ]
