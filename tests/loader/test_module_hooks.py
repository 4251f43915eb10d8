"""Rows of one batch with different adapters equal what PEFT gives for each adapter alone."""

import warnings

import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from dovetail.loader.native.adapter import LowRank, NativeAdapter, Rescale
from dovetail.loader.native.compiled import CompiledProducts
from dovetail.loader.native.hooks import Mix, ModuleHooks
from dovetail.loader.native.read import read_native
from dovetail.loader.native.stacked import StackedProducts
from dovetail.loader.routing import read_config
from dovetail.registry.payload import read_payload

TARGETS = {
    "gpt2": ("c_attn", "c_fc", "transformer.wte"),
    "llama": ("q_proj", "down_proj", "embed_tokens"),
    "opt": ("v_proj", "fc1", "embed_tokens"),
    "bloom": ("query_key_value", "dense_h_to_4h", "word_embeddings"),
    "t5": ("q", "wo", "encoder.embed_tokens"),
    "bart": ("q_proj", "fc2", "decoder.embed_tokens"),
}
ENCODER_DECODERS = ("t5", "bart")
PRODUCTS = {"torch": StackedProducts, "compiled": CompiledProducts}
both_ways = pytest.mark.parametrize("make_products", PRODUCTS.values(), ids=PRODUCTS)
TOKENS = 7


def configs(kind):
    """Configure the sorts of adapters that change modules."""
    attention, wide, embedding = TARGETS[kind]
    task = {"task_type": "SEQ_2_SEQ_LM" if kind in ENCODER_DECODERS else "CAUSAL_LM"}
    return {
        "lora": peft.LoraConfig(r=4, target_modules=[attention], **task),
        "wide": peft.LoraConfig(r=8, lora_alpha=4, target_modules=[attention, wide], **task),
        "rslora": peft.LoraConfig(r=3, use_rslora=True, target_modules=[wide], **task),
        "patterns": peft.LoraConfig(
            r=4,
            target_modules=[attention, wide],
            rank_pattern={attention: 2, rf".*\.1\..*{wide}": 6},
            alpha_pattern={wide: 16},
            **task,
        ),
        "head": peft.LoraConfig(r=2, target_modules=["lm_head"], **task),
        "embedding": peft.LoraConfig(r=5, target_modules=[embedding, wide], **task),
        "ia3": peft.IA3Config(**task),
    }


def load(kind, directory):
    """Load a model that nothing has touched."""
    auto = AutoModelForSeq2SeqLM if kind in ENCODER_DECODERS else AutoModelForCausalLM
    # The random T5 multiplies the rounding of fp32 by thousands from its input to its logits.
    dtype = torch.float64 if kind == "t5" else torch.float32
    model = auto.from_pretrained(directory, dtype=dtype)
    return model.eval().requires_grad_(requires_grad=False)


def forward(model, ids):
    """Return the logits for rows of ids, the decoder of an encoder-decoder reading them too."""
    inputs = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids.flip(1)
    with torch.inference_mode():
        return model(**inputs).logits


@pytest.fixture(
    scope="module",
    params=[
        (kind, products)
        for kind in sorted(TARGETS)
        for products in PRODUCTS
        if (kind, products) != ("t5", "compiled")  # which has no float64
    ],
    ids="-".join,
)
def case(request, model_dir, make_adapter):
    """A model with hooks, its adapters, ids of one row, and PEFT's logits by adapter."""
    kind, products = request.param
    directories = {
        name: make_adapter(kind, config, seed=seed, scale=0.2)
        for seed, (name, config) in enumerate(configs(kind).items())
    }
    torch.manual_seed(3)
    ids = torch.randint(3, 64, (1, TOKENS))
    alone = {None: forward(load(kind, model_dir(kind)), ids)}
    for name, directory in directories.items():
        alone[name] = forward(apply(load(kind, model_dir(kind)), directory), ids)
    model = load(kind, model_dir(kind))
    adapters = {name: read(model, directory) for name, directory in directories.items()}
    hooks = ModuleHooks(model, PRODUCTS[products]())
    for adapter in adapters.values():
        hooks.watch(adapter)
    yield model, hooks, adapters, ids, alone, directories
    hooks.close()


def apply(model, directory):
    """Let PEFT put an adapter on a model."""
    with warnings.catch_warnings(action="ignore"):
        return peft.PeftModel.from_pretrained(model, directory).eval()


def read(model, directory):
    """Read a directory as a native adapter."""
    payload = read_payload(directory)
    return read_native(model, payload, read_config(payload))


def mix_of(adapters, names):
    """Mix adapters by name; None is a row without."""
    return Mix([() if name is None else (adapters[name],) for name in names])


def test_each_adapter_changes_the_logits(case):
    """The oracle tells adapters apart, so equality with it means something."""
    alone = list(case[4].values())
    for number, logits in enumerate(alone):
        for other in alone[:number]:
            assert (logits - other).abs().max() > 0.05


@pytest.mark.parametrize("repeat", [1, 3], ids=["single-rows", "neighbours"])
def test_mixed_rows_equal_peft_alone(case, repeat):
    """LoRA of all sorts, IA3 and bare rows in one batch, step after step."""
    model, hooks, adapters, ids, alone, _ = case
    names = [name for name in (*adapters, None, *reversed(adapters)) for _ in range(repeat)]
    expected = torch.cat([alone[name] for name in names])
    with hooks.rows(mix_of(adapters, names)):
        for _ in range(STEPS):
            found = forward(model, ids.expand(len(names), -1))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_one_adapter_for_all_rows_equals_peft(case):
    """A batch of one adapter takes the plain product."""
    model, hooks, adapters, ids, alone, _ = case
    for name, adapter in adapters.items():
        with hooks.rows(Mix([(adapter,)] * 2)):
            found = forward(model, ids.expand(2, -1))
        torch.testing.assert_close(found, alone[name].expand(2, -1, -1), atol=1e-4, rtol=1e-4)


def test_copies_of_a_row_run_with_its_adapter(case):
    """Beams: each row's copies stand next to each other."""
    model, hooks, adapters, ids, alone, _ = case
    names = [*adapters, None]
    expected = torch.cat([alone[name].expand(3, -1, -1) for name in names])
    with hooks.rows(mix_of(adapters, names)):
        found = forward(model, ids.expand(3 * len(names), -1))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_row_takes_lora_and_ia3_together(case, model_dir):
    """IA3 scales what the layer with its LoRA gives, as on a base that LoRA was merged into."""
    model, hooks, adapters, ids, alone, directories = case
    kind = directories["lora"].name.split("-")[0]
    merged = apply(load(kind, model_dir(kind)), directories["wide"]).merge_and_unload()
    both = apply(merged, directories["ia3"])
    expected = torch.cat([alone["wide"], forward(both, ids), alone["ia3"], alone[None]])
    wide, ia3 = adapters["wide"], adapters["ia3"]
    with hooks.rows(Mix([(wide,), (ia3, wide), (ia3,), ()])):
        found = forward(model, ids.expand(4, -1))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_outside_rows_the_model_is_bare(case):
    """Hooks that are on change nothing by themselves, not even after an error in a block."""
    model, hooks, adapters, ids, alone, _ = case
    with pytest.raises(KeyError), hooks.rows(Mix([(adapters["lora"],)])):
        raise KeyError
    assert torch.equal(forward(model, ids), forward(model, ids))
    torch.testing.assert_close(forward(model, ids), alone[None])


def test_a_batch_of_other_rows_is_refused(case):
    """A batch that the mix was not made for is an error, not a wrong answer."""
    model, hooks, adapters, ids, _, _ = case
    for name in adapters:
        with (
            hooks.rows(mix_of(adapters, [name, None])),
            pytest.raises(RuntimeError, match="no multiple of the 2 rows"),
        ):
            forward(model, ids.expand(3, -1))


def hook_tables(model):
    """Copy the tables of hooks of all modules."""
    return [
        (dict(module._forward_hooks), dict(module._forward_pre_hooks)) for module in model.modules()
    ]


def test_hooks_are_there_only_while_an_adapter_needs_them(case):
    """Each module has one hook for all adapters, and none when the last one leaves."""
    model, _, adapters, _, _, _ = case
    before = hook_tables(model)
    own = ModuleHooks(model)
    for name in ("lora", "wide", "ia3"):
        own.watch(adapters[name])
    with_all = hook_tables(model)
    assert sum(len(after) for after, _ in with_all) == sum(len(after) for after, _ in before) + len(
        {
            *adapters["wide"].low_rank,
            *(n for n, r in adapters["ia3"].rescale.items() if not r.on_input),
        }
    )
    own.unwatch(adapters["lora"])
    assert hook_tables(model) == with_all
    own.unwatch(adapters["ia3"])
    own.unwatch(adapters["wide"])
    assert hook_tables(model) == before
    own.watch(adapters["ia3"])
    assert hook_tables(model) != before
    own.close()
    own.close()
    assert hook_tables(model) == before


def test_a_row_with_two_adapters_of_a_kind_is_refused():
    """Which of them would be meant is not known."""
    adapter = NativeAdapter(digest="a", kind="lora", size=0)
    with pytest.raises(ValueError, match="row 1 has 2 lora adapters"):
        Mix([(), (adapter, adapter)])


STEPS = 3
INPUTS, OUTPUTS = 6, 5


class Layer(nn.Module):
    """A model of one linear layer, and no output embedding."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(INPUTS, OUTPUTS)

    def get_output_embeddings(self):
        """Return None, as models without a head do."""


def made_adapter(number, rank, dtype=torch.float32):
    """Make LoRA of this rank (0: IA3) for a linear layer called ``layer``."""
    generator = torch.Generator().manual_seed(number)
    if rank == 0:
        on_input = number % 2 == 0
        vector = torch.rand(INPUTS if on_input else OUTPUTS, generator=generator)
        rescale = {"layer": Rescale(vector, on_input)}
        return NativeAdapter(digest=str(number), kind="ia3", rescale=rescale, size=0)
    down = torch.randn(rank, INPUTS, generator=generator)
    up = torch.randn(OUTPUTS, rank, generator=generator)
    low_rank = {"layer": LowRank(down.to(dtype), up.to(dtype), 0.5 + number)}
    return NativeAdapter(digest=str(number), kind="lora", low_rank=low_rank, size=0)


def naive(layer, adapters, x):
    """Compute one row by the definitions."""
    for adapter in adapters:
        for rescale in adapter.rescale.values():
            x = x * rescale.vector if rescale.on_input else x
    output = layer(x)
    for adapter in adapters:
        for pair in adapter.low_rank.values():
            output = output + pair.scale * (x @ pair.down.T @ pair.up.T)
    for adapter in adapters:
        for rescale in adapter.rescale.values():
            output = output if rescale.on_input else output * rescale.vector
    return output


@both_ways
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=120)
@given(
    ranks=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    data=st.data(),
    copies=st.integers(1, 3),
    tokens=st.integers(1, 12),
    flat=st.booleans(),
)
def test_any_composition_equals_the_definition(make_products, ranks, data, copies, tokens, flat):
    """Ranks, orders, runs, gaps, copies and flattened batches, on every step of a mix.

    No row gets anything of others that are not a number, or that nobody looks at.
    """
    adapters = [made_adapter(number, rank) for number, rank in enumerate(ranks)]
    kinds = {
        kind: [None, *(adapter for adapter in adapters if adapter.kind == kind)]
        for kind in ("lora", "ia3")
    }
    row = st.tuples(st.sampled_from(kinds["lora"]), st.sampled_from(kinds["ia3"]))
    runs = data.draw(st.lists(st.tuples(st.integers(1, 3), row), min_size=1, max_size=9))
    rows = [tuple(a for a in entry if a is not None) for count, entry in runs for _ in range(count)]
    model = Layer().requires_grad_(requires_grad=False)
    x = torch.randn(len(rows), copies, tokens, INPUTS)
    numbers = st.integers(0, len(rows) - 1)
    idle, lost = data.draw(st.sets(numbers, max_size=2)), data.draw(st.sets(numbers, max_size=1))
    x[list(lost)] = torch.nan
    good = [number for number in range(len(rows)) if number not in idle | lost]
    x = x.flatten(0, 1)
    expected = torch.cat(
        [
            naive(model.layer, entry, x[number * copies : (number + 1) * copies])
            for number, entry in enumerate(rows)
        ]
    )
    hooks = ModuleHooks(model, make_products())
    for adapter in adapters:
        hooks.watch(adapter)
    before = x.clone()
    mix = Mix([None if number in idle else entry for number, entry in enumerate(rows)])
    with torch.inference_mode(), hooks.rows(mix):
        for _ in range(STEPS):
            found = model.layer(x.flatten(0, 1) if flat else x)
            pair = (each.view(len(rows), -1)[good] for each in (found, expected))
            torch.testing.assert_close(*pair, atol=1e-4, rtol=1e-4)
    assert torch.equal(x[~x.isnan()], before[~before.isnan()])


@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_batches_that_take_turns_do_not_take_each_others_adapters(dtype, make_products):
    """Mixes whose adapters come to need the same seats give the same products every time."""
    adapters = [made_adapter(number, 1 + number % 5, dtype) for number in range(12)]
    products = make_products()
    products.add_layer("layer")
    mixes = [Mix([(a,), (), (b,)]) for a, b in zip(adapters, adapters[3:], strict=False)]
    x = torch.randn(3, 1, INPUTS).to(dtype)

    def run(mix):
        output = torch.zeros(3, 1, OUTPUTS, dtype=dtype)
        return mix.change_output("layer", x, output, products)

    first = [run(mix) for mix in mixes]
    for adapter in adapters:
        products.leave(adapter)
    for adapter in reversed(adapters):
        run(Mix([(adapter,), (), (adapter,)]))
        run(Mix([(adapter,), (adapters[0],), (adapters[1],)]))
    for mix, before in zip(mixes, first, strict=True):
        assert torch.equal(run(mix), before)
    for found, (a, b) in zip(first, zip(adapters, adapters[3:], strict=False), strict=True):
        for row, adapter in ((0, a), (2, b)):
            pair = adapter.low_rank["layer"]
            wide = pair.scale * (x[row].float() @ pair.down.float().T @ pair.up.float().T)
            torch.testing.assert_close(found[row].float(), wide, atol=0.2, rtol=5e-2)
        assert not found[1].any()


@both_ways
def test_a_mix_outlives_the_hooks_that_it_was_first_used_with(make_products):
    """An adapter that goes, and comes back, acts in a mix of before."""
    adapter = made_adapter(1, 3)
    model = Layer().requires_grad_(requires_grad=False)
    hooks, mix, x = (
        ModuleHooks(model, make_products()),
        Mix([(adapter,), ()]),
        torch.randn(2, INPUTS),
    )
    found = []
    for _ in range(2):
        hooks.watch(adapter)
        with torch.inference_mode(), hooks.rows(mix):
            found.append(model.layer(x))
        hooks.unwatch(adapter)
    assert torch.equal(*found)
    assert not torch.equal(found[0][0], model.layer(x)[0])


@both_ways
def test_half_precision_modules_in_a_wider_model_get_their_type(make_products):
    """Where a module computes in another type than its adapter, the product is cast."""
    adapter = made_adapter(1, 3)
    layer = nn.Linear(INPUTS, OUTPUTS, dtype=torch.bfloat16)
    x = torch.randn(2, 4, INPUTS).bfloat16()
    bare = layer(x).detach()
    products = make_products()
    products.add_layer("layer")
    found = Mix([(adapter,), ()]).change_output("layer", x, bare.clone(), products)
    pair = adapter.low_rank["layer"]
    expected = bare[0].float() + pair.scale * (x[0].float() @ pair.down.T @ pair.up.T)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found[0], expected.bfloat16())
    torch.testing.assert_close(found[1], bare[1])
