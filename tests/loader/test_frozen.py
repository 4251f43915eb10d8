"""Whatever fails in a job, the base keeps its weights and hooks, and the next job is right."""

import contextlib
import itertools
import warnings

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from dovetail.loader import Row, open_base
from dovetail.registry.live import check_live_model

NAMES = ("lora", "ia3", "prompt", "prefix", "dora")
TARGETS = {"gpt2": ["c_attn"], "t5": ["q", "v"], "bloom": ["query_key_value"]}
MIDDLE = {
    "gpt2": "transformer.h.1.mlp",
    "t5": "decoder.block.1",
    "bloom": "transformer.h.1.mlp",
}


def tree(model):
    """Everything that adapters, jobs and their libraries could have changed in a model."""
    return {
        name: (
            id(module),
            type(module),
            module.training,
            {key: id(value) for key, value in vars(module).items() if not key.startswith("_")},
            sorted(vars(module)),
            list(module._forward_hooks.values()),
            list(module._forward_pre_hooks.values()),
            list(module._backward_hooks.values()),
            [(id(p), p.requires_grad, p._version) for p in module.parameters(recurse=False)],
            [(id(b), b.data_ptr()) for b in module.buffers(recurse=False)],
            list(module._modules),
        )
        for name, module in model.named_modules()
    }


@pytest.fixture(scope="module", params=TARGETS)
def kind(request):
    """An architecture for each way in which rows enter a batch."""
    return request.param


@pytest.fixture(scope="module")
def directories(kind, make_adapter):
    """Adapters that run natively, as soft prompts, and through PEFT."""
    task = {"task_type": "SEQ_2_SEQ_LM" if kind == "t5" else "CAUSAL_LM"}
    lora = {"r": 2, "target_modules": TARGETS[kind], **task}
    configs = {
        "lora": peft.LoraConfig(**lora),
        "ia3": peft.IA3Config(**task),
        "prompt": peft.PromptTuningConfig(num_virtual_tokens=5, **task),
        "prefix": peft.PrefixTuningConfig(num_virtual_tokens=3, **task),
        "dora": peft.LoraConfig(use_dora=True, **lora),
    }
    return {name: make_adapter(kind, config, seed=3) for name, config in configs.items()}


@pytest.fixture
def base(kind, model_dir, directories):
    """A base with all adapters attached."""
    with open_base(model_dir(kind)) as opened:
        for name in NAMES:
            opened.attach_directory(directories[name], name=name)
        yield opened


@pytest.fixture(scope="module")
def rows(texts):
    """Rows in which adapters and limits change from row to row."""
    names, limits = itertools.cycle([None, *NAMES]), itertools.cycle([7, 1, 5, 3])
    return [Row(*row) for row in zip(texts, names, limits, strict=False)]


@pytest.fixture(scope="module")
def expected(kind, rows, directories, oracle):
    """What each row gets alone."""
    return [
        oracle.tokens(kind, directories.get(r.adapter), r.text, max_new_tokens=r.max_new_tokens)
        for r in rows
    ]


@contextlib.contextmanager
def failing(base, kind, error, *, at):
    """Let a module in the middle of the model raise an error when it is called for a time."""
    calls = itertools.count(1)

    def fail(_module, _inputs):
        if next(calls) == at:
            raise error

    module = base.model.get_submodule(MIDDLE[kind])
    handle = module.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        handle.remove()
    assert next(calls) > at


def check_untouched(base, before):
    """Compare a base with what it was, and its weights with their record."""
    assert tree(base.model) == before
    check_live_model(base.model, base.checkpoint.manifest)


def written(base, rows, **options):
    """Return the tokens of rows."""
    return [generation.token_ids for generation in base.generate(rows, batch_size=3, **options)]


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()], ids=["error", "^C"])
@pytest.mark.parametrize("at", [1, 3, 12])
def test_an_error_in_a_pass_ends_the_job_and_nothing_else(base, kind, rows, expected, error, at):
    """It comes out of the job as it is; a first job that fails leaves no trace, nor a later one."""
    before = tree(base.model)
    with failing(base, kind, error, at=at), pytest.raises(type(error)):
        written(base, rows)
    check_untouched(base, before)
    assert written(base, rows) == expected
    with failing(base, kind, error, at=at), pytest.raises(type(error)):
        written(base, rows)
    check_untouched(base, before)
    assert written(base, rows) == expected
    check_untouched(base, before)


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"no_repeat_ngram_size": 2}], ids=str)
def test_an_error_in_a_batch_that_stays_together_ends_only_its_job(
    base, kind, rows, expected, options
):
    """In the loop of transformers' own generation, too."""
    before = tree(base.model)
    own = written(base, rows, **options)
    for at in (1, 3):
        with failing(base, kind, KeyboardInterrupt(), at=at), pytest.raises(KeyboardInterrupt):
            written(base, rows, **options)
        check_untouched(base, before)
    assert written(base, rows, **options) == own
    assert written(base, rows) == expected


def test_an_error_in_a_row_through_peft_ends_only_its_job(base, kind, rows, expected):
    """What PEFT put into the model for the time of the batch is taken out."""
    before = tree(base.model)
    through_peft = [Row(row.text, "dora", row.max_new_tokens) for row in rows]
    for at in (1, 2):
        with failing(base, kind, KeyboardInterrupt(), at=at), pytest.raises(KeyboardInterrupt):
            written(base, through_peft)
        check_untouched(base, before)
    assert written(base, rows) == expected


@pytest.mark.parametrize("after", [0, 1, 5])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_job_that_is_left_leaves_nothing(base, rows, expected, after, ordered):
    """Before the first result, after it, and half-way."""
    before = tree(base.model)
    results = base.generate(rows, batch_size=3, ordered=ordered)
    list(itertools.islice(results, after))
    results.close()
    check_untouched(base, before)
    assert written(base, rows) == expected


def test_errors_of_rows_and_of_their_source_leave_nothing(base, rows, expected):
    """A row that cannot be scored, a source that fails, a listener that fails."""
    before = tree(base.model)
    found = list(base.generate([Row(""), *rows, Row("w5", max_new_tokens=0)], batch_size=3))
    assert [g.token_ids for g in found[1:-1]] == expected
    assert found[0].error
    assert found[-1].error
    check_untouched(base, before)

    def broken():
        yield from rows[:5]
        raise OSError("the file went away")

    with pytest.raises(OSError, match="went away"):
        written(base, broken())
    check_untouched(base, before)

    def refuse(_generation):
        raise LookupError("nobody listens")

    with pytest.raises(LookupError, match="nobody"):
        written(base, rows, on_done=refuse)
    check_untouched(base, before)
    assert written(base, rows) == expected


def test_a_detach_in_a_job_that_fails_is_complete(base, kind, rows, expected, directories):
    """Hooks that only the job still needed go with it."""
    bare = {name: found for name, found in tree(base.model).items() if name == ""}
    for name in NAMES:
        base.detach(name)
    before = tree(base.model)
    for name in NAMES:
        base.attach_directory(directories[name], name=name)
    with failing(base, kind, KeyboardInterrupt(), at=9):
        results = base.generate(rows, batch_size=3, ordered=False)
        next(results)
        for name in NAMES:
            base.detach(name)
        with pytest.raises(KeyboardInterrupt):
            list(results)
    check_untouched(base, before)
    assert tree(base.model)[""] == bare[""]
    for name in NAMES:
        base.attach_directory(directories[name], name=name)
    assert written(base, rows) == expected


def shape(model):
    """What can be compared between two models that were loaded from the same files."""
    plain = (bool, int, float, str, type(None), tuple)
    return {
        name: (
            type(module),
            {
                key: value if isinstance(value, plain) else None
                for key, value in vars(module).items()
            },
            len(module._forward_hooks) + len(module._forward_pre_hooks),
            getattr(module.forward, "__func__", None),
        )
        for name, module in model.named_modules()
    }


def test_a_closed_base_leaves_a_model_as_it_is_loaded(
    base, kind, rows, expected, model_dir, directories
):
    """Nothing is left on it, and its own generation gives what that of a fresh model gives."""
    assert written(base, rows) == expected
    model = base.model
    with failing(base, kind, KeyboardInterrupt(), at=4), pytest.raises(KeyboardInterrupt):
        written(base, rows)
    manifest = base.checkpoint.manifest
    base.close()
    check_live_model(model, manifest)
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    fresh = auto.from_pretrained(model_dir(kind)).eval()
    assert shape(model) == shape(fresh)
    ids = torch.arange(5, 20).reshape(3, 5)
    for options in ({}, {"num_beams": 2}):
        given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 9, **options}
        assert torch.equal(model.generate(ids, **given), fresh.generate(ids, **given))
    with warnings.catch_warnings(action="ignore"):
        oracle = peft.PeftModel.from_pretrained(fresh, directories["lora"])
        again = peft.PeftModel.from_pretrained(model, directories["lora"])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 4}
    assert torch.equal(again.generate(**given), oracle.generate(**given))
