"""Every row's tokens equal those of PEFT for that row alone, without padding."""

import json
import shutil

import peft
import pytest
import torch

from dovetail.loader import Row, open_base

TARGETS = {
    "gpt2": ["c_attn", "c_proj"],
    "llama": ["q_proj", "v_proj", "down_proj"],
    "opt": ["q_proj", "v_proj", "fc1"],
    "bloom": ["query_key_value", "dense_h_to_4h"],
    "mistral": ["q_proj", "v_proj", "down_proj"],
    "qwen3": ["q_proj", "v_proj", "down_proj"],
    "t5": ["q", "v", "wo"],
    "bart": ["q_proj", "v_proj", "fc2"],
}
MIXED = 8


def configs(kind):
    """Configure one adapter of each sort for an architecture."""
    task = "SEQ_2_SEQ_LM" if kind in {"t5", "bart"} else "CAUSAL_LM"
    tokens = {"task_type": task, "num_virtual_tokens": 5}
    return {
        "lora": peft.LoraConfig(task_type=task, r=4, target_modules=TARGETS[kind]),
        "rslora": peft.LoraConfig(
            task_type=task, r=3, use_rslora=True, target_modules=TARGETS[kind][:1]
        ),
        "dora": peft.LoraConfig(
            task_type=task, r=2, use_dora=True, target_modules=TARGETS[kind][:1]
        ),
        "ia3": peft.IA3Config(task_type=task),
        "prompt": peft.PromptTuningConfig(**tokens),
        "p-tuning": peft.PromptEncoderConfig(encoder_hidden_size=16, **tokens),
        "multitask": peft.MultitaskPromptTuningConfig(num_tasks=2, **tokens),
        "prefix": peft.PrefixTuningConfig(**tokens),
    }


@pytest.fixture(scope="module", params=sorted(TARGETS))
def case(request, model_dir, make_adapter, peft_alone, texts):
    """An architecture, its adapters, and what PEFT writes with each for each text alone."""
    kind = request.param
    adapters = {
        name: make_adapter(kind, config, seed=seed)
        for seed, (name, config) in enumerate(configs(kind).items())
    }
    alone = {
        name: peft_alone(kind, directory, texts, max_new_tokens=MIXED)
        for name, directory in {None: None, **adapters}.items()
    }
    return kind, adapters, alone


@pytest.fixture(scope="module")
def base(case, model_dir):
    """The architecture's base with all adapters attached."""
    kind, adapters, _ = case
    with open_base(model_dir(kind)) as opened:
        for name, directory in adapters.items():
            opened.attach_directory(directory, name=name)
        yield opened


def test_adapters_change_what_is_written(case):
    """The oracle tells adapters, rows and the bare base apart, so equality means something."""
    _, adapters, alone = case
    for name in adapters:
        changed = sum(a != b for a, b in zip(alone[name], alone[None], strict=True))
        assert changed >= len(alone[None]) * 0.7, name
        assert len(set(alone[name])) >= 3, name
    assert len({tuple(outputs) for outputs in alone.values()}) == len(alone)


@pytest.mark.parametrize("batch_size", [3, 16])
def test_mixed_batches_write_what_each_row_alone_would(case, base, texts, batch_size):
    """Rows of all adapters and lengths, mixed and padded, get the tokens of PEFT alone."""
    _, _, alone = case
    expected = [
        (name, text, tokens)
        for number, text in enumerate(texts)
        for name, tokens in ((name, outputs[number]) for name, outputs in alone.items())
    ]
    rows = [Row(text, name) for name, text, _ in expected]
    found = list(base.generate(rows, batch_size=batch_size, max_new_tokens=MIXED))
    assert [generation.index for generation in found] == list(range(len(rows)))
    for generation, (name, text, tokens) in zip(found, expected, strict=True):
        assert generation.error is None
        assert generation.token_ids == tokens, (name, text)
        assert generation.finish_reason == ("length" if len(tokens) == MIXED else "stop")


def test_limits_of_single_rows_are_kept(case, base, texts, peft_alone):
    """Rows with limits of their own share batches and get what they would get alone."""
    kind, adapters, _ = case
    limits = [1 + number % 3 * 3 for number in range(len(texts))]
    expected = {
        limit: peft_alone(kind, adapters["lora"], texts, max_new_tokens=limit)
        for limit in set(limits)
    }
    rows = [
        Row(text, "lora", max_new_tokens=limit) for text, limit in zip(texts, limits, strict=True)
    ]
    found = list(base.generate(rows, max_new_tokens=MIXED))
    assert [generation.token_ids for generation in found] == [
        expected[limit][number] for number, limit in enumerate(limits)
    ]


@pytest.mark.parametrize("adapter", ["lora", "prompt"])
@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2},
    ],
    ids=["beams", "penalties"],
)
def test_generation_options_act_as_on_each_row_alone(
    case, base, texts, peft_alone, adapter, options
):
    """Beam search and penalties on input tokens do not see padding or neighbours."""
    kind, adapters, _ = case
    expected = peft_alone(kind, adapters[adapter], texts[:6], max_new_tokens=MIXED, **options)
    rows = [Row(text, adapter) for text in texts[:6]]
    found = list(base.generate(rows, max_new_tokens=MIXED, **options))
    assert [generation.token_ids for generation in found] == expected


def test_the_attention_implementation_makes_no_difference(case, model_dir, texts):
    """Eager attention on padded rows gives the same tokens."""
    kind, adapters, alone = case
    names = ("lora", "prompt", None)
    with open_base(model_dir(kind), attn_implementation="eager") as opened:
        for name in ("lora", "prompt"):
            opened.attach_directory(adapters[name], name=name)
        rows = [Row(text, name) for text in texts for name in names]
        found = list(opened.generate(rows, batch_size=4, max_new_tokens=MIXED))
    expected = [alone[name][number] for number in range(len(texts)) for name in names]
    assert [generation.token_ids for generation in found] == expected


@pytest.mark.parametrize("case", ["gpt2", "llama"], indirect=True)
def test_long_outputs_do_not_drift(case, base, texts, peft_alone):
    """Sixty-four tokens later every row still writes what it would alone."""
    kind, adapters, _ = case
    limits = [64, 23, 48, 7, 64]
    chosen = [
        (name, text, limits[(number + place) % len(limits)])
        for number, text in enumerate(texts[:5])
        for place, name in enumerate([None, "lora", "rslora", "ia3", "prompt", "prefix"])
    ]
    expected = [
        peft_alone(kind, adapters.get(name), [text], max_new_tokens=limit)[0]
        for name, text, limit in chosen
    ]
    assert sum(len(tokens) > 40 for tokens in expected) >= 3
    rows = [Row(text, name, max_new_tokens=limit) for name, text, limit in chosen]
    found = list(base.generate(rows, batch_size=6))
    assert [generation.token_ids for generation in found] == expected


@pytest.mark.parametrize("case", ["gpt2", "llama"], indirect=True)
def test_in_bfloat16_rows_begin_as_they_would_alone(case, model_dir, texts, oracle):
    """Rounding may turn the balance between two tokens, but not for one row in ten."""
    kind, adapters, _ = case
    half = oracle.in_type(torch.bfloat16)
    chosen = [(text, name) for text in texts for name in [None, *adapters]]
    with open_base(model_dir(kind), dtype="bfloat16") as opened:
        for name, directory in adapters.items():
            opened.attach_directory(directory, name=name)
        rows = [Row(text, name) for text, name in chosen]
        found = list(opened.generate(rows, batch_size=8, max_new_tokens=MIXED))
    assert [generation.error for generation in found] == [None] * len(rows)
    expected = [
        half.tokens(kind, adapters.get(name), text, max_new_tokens=1) for text, name in chosen
    ]
    same = sum(g.token_ids[:1] == tokens for g, tokens in zip(found, expected, strict=True))
    assert same / len(rows) > 0.9


def test_a_configuration_without_a_first_token_is_no_hindrance(model_dir, oracle, texts, tmp_path):
    """T5 begins with its padding token, and its configuration need not name any other."""
    place = shutil.copytree(model_dir("t5"), tmp_path / "t5")
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((place / name).read_text())
        settings.pop("bos_token_id", None)
        (place / name).write_text(json.dumps(settings))
    with open_base(place) as base:
        (found,) = base.generate([Row(texts[0])], max_new_tokens=8)
    assert found.token_ids == oracle.tokens("t5", None, texts[0])
