"""Drawn tokens: repeatable by seed whatever the batch, and distributed as transformers says."""

import collections
import math

import peft
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from dovetail.loader import Row, open_base

EOS = 1
LOOSE = {"do_sample": True, "temperature": 3.0, "top_k": 0}
DRAWS = 1200


def tokens(base, rows, **options):
    """Generate and keep the token ids."""
    found = list(base.generate(rows, **{"max_new_tokens": 7, **options}))
    assert [generation.error for generation in found] == [None] * len(found)
    return [generation.token_ids for generation in found]


@pytest.fixture(scope="module", params=["gpt2", "t5"])
def base(request, model_dir, make_adapter):
    """A base of each sort with adapters for all paths."""
    kind = request.param
    seq2seq = kind == "t5"
    task = {"task_type": "SEQ_2_SEQ_LM" if seq2seq else "CAUSAL_LM"}
    some = {"target_modules": ["q", "v"] if seq2seq else ["c_attn"], **task}
    configs = {
        "lora": peft.LoraConfig(r=4, **some),
        "dora": peft.LoraConfig(r=2, use_dora=True, **some),
        "ia3": peft.IA3Config(**task),
        "prompt": peft.PromptTuningConfig(num_virtual_tokens=5, **task),
        "prefix": peft.PrefixTuningConfig(num_virtual_tokens=3, **task),
    }
    with open_base(model_dir(kind)) as opened:
        for seed, (name, config) in enumerate(configs.items()):
            opened.attach_directory(make_adapter(kind, config, seed=seed), name=name)
        yield opened


@pytest.fixture
def rows(texts):
    """Rows of all lengths on all paths."""
    names = [None, "lora", "prompt", "dora", "prefix", "ia3"]
    return [Row(text, names[number % len(names)]) for number, text in enumerate([*texts, *texts])]


@pytest.fixture
def expected(base, rows):
    """What the rows draw with one seed, one row at a time."""
    return tokens(base, rows, seed=11, batch_size=1, **LOOSE)


@pytest.mark.parametrize("batch_size", [3, 8, 32])
def test_a_seed_gives_the_same_in_batches_of_every_size(base, rows, expected, batch_size):
    """How many rows run beside a row does not change what it draws."""
    assert tokens(base, rows, seed=11, batch_size=batch_size, **LOOSE) == expected


@pytest.mark.parametrize("prefill_tokens", [1, 20, 1000])
def test_a_seed_gives_the_same_however_rows_enter(base, rows, expected, prefill_tokens):
    """Rows that enter in small chunks draw what rows that enter together draw."""
    options = {"seed": 11, "batch_size": 8, "prefill_tokens": prefill_tokens, **LOOSE}
    assert tokens(base, rows, **options) == expected


def test_a_row_draws_the_same_beside_other_neighbours(base, rows, expected):
    """Every second row is replaced by one of other text, adapter and limit; the rest stay."""
    others = [
        Row("w9 w9 w30 w31", "lora", max_new_tokens=1 + number % 9) if number % 2 else row
        for number, row in enumerate(rows)
    ]
    found = tokens(base, others, seed=11, batch_size=4, **LOOSE)
    assert found[0::2] == expected[0::2]
    assert found[1::2] != expected[1::2]


def test_a_row_draws_with_the_seed_and_its_place(base, rows):
    """Row i under a seed is row 0 under that seed plus i."""
    together = tokens(base, rows[:6], seed=40, batch_size=4, **LOOSE)
    alone = [tokens(base, [row], seed=40 + i, **LOOSE)[0] for i, row in enumerate(rows[:6])]
    assert together == alone


def test_a_shorter_limit_cuts_what_is_drawn(base, rows, expected):
    """The limit of a row says where its draws end, not what they are."""
    short = [Row(row.text, row.adapter, max_new_tokens=1 + n % 4) for n, row in enumerate(rows)]
    found = tokens(base, short, seed=11, batch_size=4, **LOOSE)
    assert found == [whole[: 1 + number % 4] for number, whole in enumerate(expected)]


def test_other_seeds_draw_other_tokens(base, rows, expected):
    """Few rows write the same under two seeds."""
    found = tokens(base, rows, seed=911, **LOOSE)
    changed = [a != b for a, b in zip(found, expected, strict=True)]
    assert sum(changed) > len(rows) * 0.7


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1e-4, "top_k": 0},
        {"temperature": 3.0, "top_k": 1},
        {"temperature": 3.0, "top_k": 0, "top_p": 1e-6},
    ],
    ids=["cold", "one-to-choose-from", "narrow"],
)
def test_sampling_without_a_choice_is_greedy(base, rows, options):
    """Settings that leave one token give the likeliest one."""
    drawn = tokens(base, rows, do_sample=True, seed=3, batch_size=6, **options)
    assert drawn == tokens(base, rows, batch_size=6)


def probabilities(logits, options):
    """Return the probability of each token that can be drawn, as transformers warps logits."""
    scores = logits[None].float()
    for name, warper in (
        ("temperature", TemperatureLogitsWarper),
        ("top_k", TopKLogitsWarper),
        ("top_p", TopPLogitsWarper),
    ):
        if options.get(name):
            scores = warper(options[name])(None, scores)
    found = scores[0].softmax(dim=-1).double().tolist()
    return {token: chance for token, chance in enumerate(found) if chance > 0}


def chance_of_fit(counts, chances):
    """Return the chi-square test's p-value for counts of outcomes; rare outcomes are one."""
    total = sum(counts.values())
    assert set(counts) <= set(chances)
    common = [outcome for outcome, chance in chances.items() if chance * total >= 5]
    pairs = [(counts[outcome], chances[outcome] * total) for outcome in common]
    rest = total - sum(wanted for _, wanted in pairs)
    if rest > 1:
        pairs.append((total - sum(seen for seen, _ in pairs), rest))
    assert len(pairs) > 2
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in pairs)
    half = torch.tensor([(len(pairs) - 1) / 2, statistic / 2], dtype=torch.float64)
    return 1 - torch.special.gammainc(half[0], half[1]).item()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 2.5, "top_k": 0},
        {"temperature": 3.0, "top_k": 4},
        {"temperature": 2.0, "top_k": 0, "top_p": 0.7},
        {"temperature": 3.0, "top_k": 9, "top_p": 0.8},
    ],
    ids=["temperature", "top-k", "top-p", "all"],
)
@pytest.mark.parametrize("adapter", ["lora", "prompt"])
def test_draws_are_distributed_as_in_transformers(gpt2, request, oracle, adapter, options, texts):
    """Over many seeds two tokens in a row come as often as their joint probability says."""
    directory = request.getfixturevalue(adapter)
    gpt2.attach_directory(directory, name=adapter)
    text = texts[3]
    chances = {}
    for first, chance in probabilities(
        oracle.next_logits("gpt2", directory, text), options
    ).items():
        if first == EOS:
            chances[()] = chance
            continue
        logits = oracle.next_logits("gpt2", directory, text, (first,))
        for second, further in probabilities(logits, options).items():
            outcome = (first,) if second == EOS else (first, second)
            chances[outcome] = chance * further
    assert math.isclose(sum(chances.values()), 1, rel_tol=1e-5)
    rows = [Row(text, adapter)] * DRAWS
    drawn = tokens(gpt2, rows, do_sample=True, seed=100, max_new_tokens=2, batch_size=64, **options)
    assert chance_of_fit(collections.Counter(drawn), chances) > 0.001
