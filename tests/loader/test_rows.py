"""Rows in, generations out: errors, order, limits, options and sampling."""

import json
import shutil

import pytest
import torch

from dovetail.errors import AdapterNotFound, InvalidInput
from dovetail.loader import Row, open_base


def tokens(base, rows, **options):
    """Generate and keep the token ids."""
    options.setdefault("max_new_tokens", 6)
    return [generation.token_ids for generation in base.generate(rows, **options)]


def test_unscorable_rows_are_errors_of_their_own(gpt2, prompt, texts):
    """Empty, overlong and malformed rows say why, with numbers, and leave the others alone."""
    gpt2.attach_directory(prompt, name="soft")
    good = [Row(text, "soft") for text in texts[:3]]
    bad = [
        Row("", "soft"),
        Row("   ", "soft"),
        Row(" ".join(["w5"] * 86), "soft"),
        Row("w5", "soft", max_new_tokens=0),
        Row(None, "soft"),
    ]
    rows = [bad[0], good[0], bad[1], bad[2], good[1], bad[3], bad[4], good[2]]
    found = list(gpt2.generate(rows, max_new_tokens=6))
    assert [generation.error is None for generation in found] == [row in good for row in rows]
    assert [g.token_ids for g in found if g.error is None] == tokens(gpt2, good)
    assert "5 virtual tokens + 86 input tokens + 6 new tokens = 97" in found[3].error
    assert "96 positions" in found[3].error
    assert all(g.finish_reason == "error" and g.text == "" for g in found if g.error)


def test_a_row_that_just_fits_is_scored(gpt2, prompt):
    """The last position of the model can be used."""
    gpt2.attach_directory(prompt, name="soft")
    (generation,) = gpt2.generate([Row(" ".join(["w5"] * 85), "soft")], max_new_tokens=6)
    assert generation.error is None


def test_text_is_the_new_tokens_without_the_prompt(gpt2):
    """The text is decoded from the new tokens alone, special tokens left out."""
    (generation,) = gpt2.generate([Row("w7 w8 w9")], max_new_tokens=6)
    words = [f"w{token}" for token in generation.token_ids if token > 2]
    assert generation.text.split() == words
    assert generation.adapter is None


def test_rows_are_read_as_they_are_needed(gpt2, texts):
    """An endless stream of rows yields results, in order."""
    taken = []

    def endless():
        number = 0
        while True:
            taken.append(number)
            yield Row(texts[number % len(texts)])
            number += 1

    results = gpt2.generate(endless(), batch_size=2, max_new_tokens=2)
    assert [next(results).index for _ in range(40)] == list(range(40))
    assert len(taken) <= 80


def test_no_rows_give_no_generations(gpt2):
    """An empty input is no error."""
    assert list(gpt2.generate([])) == []


def test_an_adapter_that_is_not_attached_is_named(gpt2, lora):
    """The error lists what is attached."""
    gpt2.attach_directory(lora, name="first")
    with pytest.raises(AdapterNotFound, match="'second'; attached are: first"):
        list(gpt2.generate([Row("w5", "second")]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 5}, "use max_new_tokens"),
        ({"temprature": 0.5}, "'temprature'"),
        ({"num_return_sequences": 2}, "'num_return_sequences'"),
        ({"max_new_tokens": 0}, "whole number from 1"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_options_that_are_not_taken_are_refused_at_once(gpt2, options, message):
    """A misspelt or unusable option is an error before any row is read."""
    with pytest.raises(InvalidInput, match=message):
        gpt2.generate(iter([]), **options)


def test_sampling_with_a_seed_does_not_depend_on_the_batch(gpt2, lora, texts):
    """A row draws the same tokens whatever is beside it; another seed draws others."""
    gpt2.attach_directory(lora, name="lora")
    rows = [Row(text, "lora" if number % 2 else None) for number, text in enumerate(texts)]
    options = {"do_sample": True, "temperature": 3.0, "top_k": 0}
    first = tokens(gpt2, rows, seed=4, batch_size=2, **options)
    assert tokens(gpt2, rows, seed=4, batch_size=16, **options) == first
    assert tokens(gpt2, rows, seed=5, **options) != first
    assert tokens(gpt2, rows) != first


def test_each_row_draws_for_itself(gpt2):
    """Equal rows under one seed are separate draws."""
    rows = [Row("w7 w8 w9")] * 4
    drawn = tokens(gpt2, rows, do_sample=True, temperature=5.0, top_k=0, seed=1)
    assert len(set(drawn)) == 4


def test_sampling_without_a_seed_follows_the_global_state(gpt2):
    """Without a seed rows are drawn together, and the caller's generator decides."""
    rows = [Row("w7 w8 w9")] * 4
    options = {"do_sample": True, "temperature": 5.0, "top_k": 0}
    torch.manual_seed(1)
    first = tokens(gpt2, rows, **options)
    assert tokens(gpt2, rows, **options) != first
    torch.manual_seed(1)
    assert tokens(gpt2, rows, **options) == first


def test_sampling_defaults_of_the_model_do_not_make_it_sample(
    gpt2, model_dir, tmp_path, texts, capfd
):
    """A generation_config.json with sampling and max_length leaves greedy rows as they are."""
    directory = tmp_path / "sampling"
    shutil.copytree(model_dir("gpt2"), directory)
    path = directory / "generation_config.json"
    config = json.loads(path.read_text())
    sampling = {"do_sample": True, "temperature": 3.0, "top_k": 5, "top_p": 0.9, "max_length": 50}
    path.write_text(json.dumps(config | sampling))
    rows = [Row(text) for text in texts]
    with open_base(directory) as base:
        capfd.readouterr()
        assert tokens(base, rows) == tokens(gpt2, rows)
        assert capfd.readouterr() == ("", "")


def test_options_that_do_nothing_without_sampling_are_left_out(gpt2, texts):
    """A temperature alone does not make a call sample."""
    rows = [Row(text) for text in texts[:3]]
    assert tokens(gpt2, rows, temperature=0.5, min_p=0.1) == tokens(gpt2, rows)


def test_each_row_is_told_of_when_it_is_done(gpt2, prompt, texts):
    """Once per row, failed ones too, with the generation that is yielded later."""
    gpt2.attach_directory(prompt, name="soft")
    rows = [Row(text, name) for text in [*texts[:4], ""] for name in ("soft", None)]
    told = []
    found = list(gpt2.generate(rows, batch_size=2, max_new_tokens=3, on_done=told.append))
    assert sorted(told, key=lambda generation: generation.index) == found
