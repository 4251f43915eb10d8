"""Packs of many prompts: masks, positions and states, against their definition."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from dovetail.loader.engine.cache import States
from dovetail.loader.engine.packing import Pack, Stretch

LAYERS, HEADS, SIZE = 2, 2, 3
STRETCHES = st.lists(
    st.tuples(st.integers(1, 6), st.none() | st.integers(0, 2)), min_size=1, max_size=6
)


def make_pasts(lengths):
    """Make prefixes of these lengths, no two tokens of which are alike."""
    pasts = []
    for number, length in enumerate(lengths):
        base = torch.arange(LAYERS * HEADS * length * SIZE).float() + 1000 * (number + 1)
        parts = tuple(base.reshape(LAYERS, HEADS, length, SIZE))
        pasts.append(States(parts, tuple(-part for part in parts)))
    return pasts


def make_pack(stretches, lengths):
    """Make a pack, and what is in each column: prefix or stretch, and the position there."""
    pasts = make_pasts(lengths)
    chosen = [(length, None if past is None else pasts[past]) for length, past in stretches]
    pack = Pack(
        [Stretch(length, past) for length, past in chosen],
        layers=LAYERS,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    order = list(dict.fromkeys(past for _, past in stretches if past is not None))
    columns = [("past", past, at) for past in order for at in range(lengths[past])]
    tokens = []
    for number, (length, past) in enumerate(stretches):
        before = 0 if past is None else lengths[past]
        tokens += [("own", number, before + at, past) for at in range(length)]
    columns += [token[:3] for token in tokens]
    return pack, pasts, columns, tokens


@given(
    stretches=STRETCHES,
    lengths=st.tuples(*[st.integers(1, 5)] * 3),
    window=st.none() | st.integers(1, 8),
)
def test_a_token_sees_itself_what_came_before_it_and_its_prefix(stretches, lengths, window):
    """And nothing of its neighbours; of a window, only what is near enough by position."""
    pack, _, columns, tokens = make_pack(stretches, lengths)
    found = pack.hidden(window)
    assert found.shape == (1, 1, len(tokens), len(columns))
    for line, (_, number, here, past) in zip(found[0, 0], tokens, strict=True):
        for value, (kind, owner, there) in zip(line.tolist(), columns, strict=True):
            seen = owner == (past if kind == "past" else number) and there <= here
            seen = seen and (window is None or here - there < window)
            assert value == (0 if seen else -torch.inf)
    assert pack.positions.tolist() == [[here for _, _, here, _ in tokens]]


@given(stretches=STRETCHES, lengths=st.tuples(*[st.integers(1, 5)] * 3))
def test_attention_gets_prefixes_once_and_gives_each_stretch_its_own(stretches, lengths):
    """Keys and values stand in the order of the mask's columns."""
    pack, pasts, columns, tokens = make_pack(stretches, lengths)
    new = torch.randn(LAYERS, 2, 1, HEADS, len(tokens), SIZE)
    for layer in range(LAYERS):
        keys, values = pack.update(*new[layer], layer)
        assert keys.shape == values.shape == (1, HEADS, len(columns), SIZE)
        for at, (kind, owner, there) in enumerate(columns):
            if kind == "past":
                assert torch.equal(keys[0, :, at], pasts[owner].keys[layer][:, there])
                assert torch.equal(values[0, :, at], pasts[owner].values[layer][:, there])
        before = len(columns) - len(tokens)
        assert torch.equal(keys[:, :, before:], new[layer, 0])
        assert torch.equal(values[:, :, before:], new[layer, 1])
        assert pack.get_seq_length(layer) == before
    at = 0
    for states, (length, _) in zip(pack.states(), stretches, strict=True):
        assert states.length == length
        for layer in range(LAYERS):
            assert torch.equal(states.keys[layer], new[layer, 0, 0, :, at : at + length])
            assert torch.equal(states.values[layer], new[layer, 1, 0, :, at : at + length])
        at += length
