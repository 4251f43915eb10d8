"""Attention from one query of each row: the same as SDPA's, for the length of a step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GPT2Config
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dovetail.loader.engine.attention import OneQuery

SMALL = GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=2)
attend = ALL_ATTENTION_FUNCTIONS["dovetail_one_query"]


class Module(torch.nn.Module):
    """What attention functions ask of a module."""

    def __init__(self, groups):
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = True


def states(data, *shape, dtype):
    """Draw numbers of the size that attention sees."""
    seed = data.draw(st.integers(0, 2**16))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def masks(data, rows, columns, dtype):
    """Hide some columns of each row, in one of the forms that models use; never the last one."""
    seen = torch.rand(rows, 1, 1, columns) < data.draw(st.sampled_from([0.2, 0.8]))
    seen[..., -1] = True
    hidden = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
    return data.draw(st.sampled_from([None, seen, hidden]))


@given(
    rows=st.integers(1, 4),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 4), (6, 2)]),
    columns=st.integers(1, 9),
    width=st.sampled_from([1, 4, 8]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    scaling=st.sampled_from([None, 1.0]),
    data=st.data(),
)
def test_one_query_sees_what_sdpa_shows_it(rows, heads, columns, width, dtype, scaling, data):
    """For shared and own keys, masks of either form, biases of heads, and every type."""
    own, shared = heads
    query = states(data, rows, own, 1, width, dtype=dtype)
    keys, values = (states(data, rows, shared, columns, width, dtype=dtype) for _ in range(2))
    mask = masks(data, rows, columns, dtype)
    biased = data.draw(st.booleans())
    bias = states(data, 1, own, 1, columns, dtype=dtype) if biased else None
    given = {"scaling": scaling, "position_bias": bias, "dropout": 0.0}
    module = Module(own // shared)
    found, weights = attend(module, query, keys, values, mask, **given)
    expected, _ = sdpa_attention_forward(module, query, keys, values, mask, **given)
    tolerance = {torch.bfloat16: 3e-2, torch.float16: 5e-3}.get(dtype, 1e-5)
    assert weights is None
    assert found.shape == expected.shape == (rows, 1, own, width)
    assert found.dtype == dtype
    assert torch.allclose(found, expected, atol=tolerance, rtol=tolerance)


def test_several_queries_are_left_to_sdpa():
    """What enters is not computed here: the answer is SDPA's own, bit for bit."""
    query, keys, values = (torch.randn(2, 2, 3, 4) for _ in range(3))
    found, _ = attend(Module(1), query, keys, values, None)
    assert torch.equal(found, sdpa_attention_forward(Module(1), query, keys, values, None)[0])


def test_what_sdpa_refuses_is_refused():
    """A cap on scores is not dropped in silence."""
    query, keys, values = (torch.randn(1, 1, 1, 4) for _ in range(3))
    with pytest.raises(ValueError, match="softcap"):
        attend(Module(1), query, keys, values, None, softcap=30.0)


def fail_in_a_step(one_query, model, seen):
    """Note what a model attends with, and raise."""
    with one_query.attention():
        seen.append(model.config._attn_implementation)
        raise RuntimeError("in a step")


@pytest.mark.parametrize(("chosen", "within"), [("sdpa", "dovetail_one_query"), ("eager", "eager")])
def test_a_model_has_its_own_attention_again_whatever_happens(chosen, within):
    """Only a model that uses SDPA gets another, and only in the block."""
    model = AutoModelForCausalLM.from_config(SMALL, attn_implementation=chosen)
    one_query = OneQuery.of(model)
    assert bool(one_query) is (chosen == "sdpa")
    seen = []
    with pytest.raises(RuntimeError, match="in a step"):
        fail_in_a_step(one_query, model, seen)
    assert seen == [within]
    assert model.config._attn_implementation == chosen


def test_a_step_of_a_model_is_that_of_sdpa():
    """The same logits, whichever attention a model runs with."""
    model = AutoModelForCausalLM.from_config(SMALL, attn_implementation="sdpa").eval()
    first, last = torch.tensor([[3, 1, 4]]), torch.tensor([[1]])
    with torch.inference_mode():
        expected = model(torch.cat([first, last], dim=1)).logits[:, -1]
        past = model(first, use_cache=True).past_key_values
        with OneQuery.of(model).attention():
            found = model(last, past_key_values=past).logits[:, -1]
    assert torch.allclose(found, expected, atol=1e-6)
