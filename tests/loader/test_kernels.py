"""Compiled loops compute what the definitions say, in every type, shape and split of the work."""

import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dovetail.loader import kernels
from dovetail.loader.kernels import low_rank, threads
from dovetail.loader.kernels.one_query import WIDEST, attend
from dovetail.loader.native.adapter import LowRank
from dovetail.loader.native.compiled import Spans, Table

TYPES = [torch.float32, torch.bfloat16, torch.float16]
EXACT = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
any_type = pytest.mark.parametrize("dtype", TYPES, ids=str)


def close(found, expected, dtype):
    """Compare with what was computed in double precision."""
    torch.testing.assert_close(found.double(), expected, atol=EXACT[dtype], rtol=EXACT[dtype])


def random(*shape, dtype):
    """Make random numbers that a type can hold."""
    return torch.randn(*shape).to(dtype)


@any_type
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(
    ranks=st.lists(st.sampled_from([1, 3, 4, 5, 16, 257, 300]), min_size=1, max_size=4),
    runs=st.lists(st.tuples(st.integers(1, 40), st.integers(-1, 3)), min_size=1, max_size=9),
    sizes=st.tuples(st.integers(1, 70), st.sampled_from([1, 15, 64, 511, 513, 1030])),
)
def test_products_of_any_runs_equal_the_definition(dtype, ranks, runs, sizes):
    """Every token gets its own adapter's product, and one without an adapter stays as it was."""
    torch.manual_seed(0)
    inputs, outputs = sizes
    table = Table()
    pairs = {}
    for number, rank in enumerate(ranks):
        down = random(rank, inputs, dtype=dtype) / (rank * inputs) ** 0.5
        pairs[number] = LowRank(down, random(outputs, rank, dtype=dtype), 0.5 + number)
        table.put(number, pairs[number])
    runs = [(count, number if number in pairs else None) for count, number in runs]
    if all(number is None for _, number in runs):
        runs.append((1, 0))
    tokens = sum(count for count, _ in runs)
    x, y = random(tokens, inputs, dtype=dtype), random(tokens, outputs, dtype=dtype)
    expected, at = y.double(), 0
    for count, number in runs:
        if number is not None:
            pair, part = pairs[number], slice(at, at + count)
            low = x[part].double() @ pair.down.double().T
            expected[part] += pair.scale * low @ pair.up.double().T
        at += count
    found = table.add(x, y.clone(), Spans(runs))
    close(found, expected, dtype)


def test_a_table_has_room_for_any_number_and_forgets_those_that_leave():
    """Numbers far behind, and pairs that were removed, are where they should be, or nowhere."""
    table = Table()
    pair = LowRank(torch.ones(2, 3), torch.ones(5, 2), 2.0)
    table.put(100, pair)
    x = torch.ones(1, 3)
    assert table.add(x, torch.zeros(1, 5), Spans([(1, 100)])).tolist() == [[12.0] * 5]
    assert table.add(x, torch.zeros(1, 5), Spans([(1, 900)])).tolist() == [[0.0] * 5]
    table.remove(100)
    assert table.add(x, torch.zeros(1, 5), Spans([(1, 100)])).tolist() == [[0.0] * 5]


def test_tensors_of_other_sizes_are_refused():
    """The loop is never given memory that is not the layer's."""
    table = Table()
    table.put(0, LowRank(torch.ones(2, 3), torch.ones(5, 2), 1.0))
    for x, y in (((2, 3), (1, 5)), ((1, 3), (2, 5)), ((1, 4), (1, 5)), ((1, 3), (1, 4))):
        with pytest.raises(RuntimeError, match="cannot be"):
            table.add(torch.ones(x), torch.ones(y), Spans([(1, 0)]))


def test_what_is_not_a_number_stays_in_its_row():
    """NaN goes through the loops, and only where the input has it."""
    table = Table()
    table.put(0, LowRank(torch.ones(2, 3).bfloat16(), torch.ones(5, 2).bfloat16(), 1.0))
    x = torch.ones(6, 3).bfloat16()
    x[1] = torch.nan
    found = table.add(x, torch.zeros(6, 5).bfloat16(), Spans([(6, 0)]))
    assert found.isnan().all(1).tolist() == [False, True, False, False, False, False]
    query = torch.ones(3, 2, 1, 4)
    keys = torch.ones(3, 2, 5, 4)
    keys[1, :, 2] = torch.nan
    seen = attend(query, keys, torch.ones(3, 2, 5, 4), mask=None, bias=None, scale=1.0)
    assert seen.isnan().flatten(1).any(1).tolist() == [False, True, False]
    hidden = torch.zeros(3, 1, 1, 5)
    hidden[..., 2] = -torch.inf
    seen = attend(query, keys, torch.ones(3, 2, 5, 4), mask=hidden, bias=None, scale=1.0)
    assert torch.equal(seen, torch.ones(3, 1, 2, 4))


def defined(query, keys, values, mask, bias, scale):
    """Attend by the definition, in double precision."""
    query, keys, values = (one.double() for one in (query, keys, values))
    shared = query.shape[1] // keys.shape[1]
    keys, values = (one.repeat_interleave(shared, 1) for one in (keys, values))
    scores = query @ keys.transpose(2, 3) * scale
    for one in (mask, bias):
        if one is not None and one.dtype == torch.bool:
            scores = scores.masked_fill(~one, -torch.inf)
        elif one is not None:
            scores = scores + one.double()
    return (scores.softmax(-1) @ values).transpose(1, 2)


@any_type
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(
    rows=st.integers(1, 12),
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    columns=st.sampled_from([1, 5, 63, 64, 65, 200, 1024, 1500]),
    widths=st.sampled_from([(1, 1), (16, 16), (24, 40), (64, 64)]),
    kind=st.sampled_from(["none", "added", "flags", "by head"]),
    biased=st.booleans(),
    apart=st.booleans(),
)
def test_attention_of_one_query_equals_the_definition(
    dtype, rows, heads, columns, widths, kind, biased, apart
):
    """Any mask and bias, shared heads, columns of a larger cache, and more than fit at once."""
    torch.manual_seed(columns)
    (heads, shared), (width, value_width) = heads, widths
    query = random(rows, 1, heads, width, dtype=dtype).transpose(1, 2)
    room = (rows + 1, shared, columns + 9)
    keys, values = (random(*room, one, dtype=dtype) for one in widths)
    if apart:
        keys, values = (one.transpose(1, 2).contiguous().transpose(1, 2) for one in (keys, values))
    keys, values = (one[:rows, :, 3 : 3 + columns] for one in (keys, values))
    hidden = torch.rand(rows, heads if kind == "by head" else 1, 1, columns) < 0.4
    hidden[..., -1] = False
    mask = {
        "none": None,
        "flags": ~hidden,
        "added": torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, -torch.inf),
        "by head": random(*hidden.shape, dtype=dtype).masked_fill(hidden, -torch.inf),
    }[kind]
    bias = random(1, heads, 1, columns, dtype=dtype) if biased else None
    found = attend(query, keys, values, mask=mask, bias=bias, scale=0.3)
    assert found.shape == (rows, 1, heads, value_width)
    close(found, defined(query, keys, values, mask, bias, 0.3), dtype)


def test_a_row_that_sees_nothing_gets_zeros():
    """An empty slot gives numbers, whatever lies in its columns."""
    mask = torch.full((2, 1, 1, 3), -torch.inf)
    mask[1] = 0
    keys = torch.full((2, 1, 3, 4), torch.nan)
    keys[1] = 1
    found = attend(torch.ones(2, 1, 1, 4), keys, keys, mask=mask, bias=None, scale=1.0)
    assert torch.equal(found[0], torch.zeros(1, 1, 4))
    assert torch.equal(found[1], torch.ones(1, 1, 4))


def test_scores_far_apart_do_not_overflow():
    """The greatest score is taken off before anything is raised to a power."""
    keys = torch.tensor([[-1e4], [1e4], [9e3]])[None, None]
    values = torch.tensor([[1.0], [2.0], [3.0]])[None, None]
    found = attend(torch.ones(1, 1, 1, 1), keys, values, mask=None, bias=None, scale=1.0)
    assert found.item() == 2.0


@pytest.mark.parametrize(
    "change",
    [
        {"keys": torch.ones(1, 1, 3, 4, dtype=torch.float16)},
        {"mask": torch.zeros(1, 1, 1, 3, dtype=torch.float16)},
        {"bias": torch.ones(1, 1, 1, 3, dtype=torch.bool)},
        {"keys": torch.ones(1, 1, 4, 3).transpose(2, 3)},
        {"query": torch.ones(1, 1, 1, WIDEST + 1), "keys": torch.ones(1, 1, 3, WIDEST + 1)},
    ],
    ids=["keys of another type", "mask of another type", "flags as bias", "columns first", "wide"],
)
def test_attention_that_the_loop_cannot_do_is_left_to_others(change):
    """None says that nothing was computed."""
    given = {
        "query": torch.ones(1, 1, 1, 4),
        "keys": torch.ones(1, 1, 3, 4),
        "values": torch.ones(1, 1, 3, 4),
        "mask": None,
        "bias": None,
    } | change
    assert attend(**given, scale=1.0) is None


def test_one_thread_does_what_many_do():
    """The work is shared by tickets, so it is whole on any number of threads."""
    x, down, up = torch.randn(20, 8), torch.randn(4, 8), torch.randn(6, 4)
    table, spans = Table(), Spans([(20, 0)])
    table.put(0, LowRank(down, up, 1.0))
    before, found = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(table.add(x, torch.zeros(20, 6), spans))
    torch.set_num_threads(before)
    for one in found:
        torch.testing.assert_close(one, x @ down.T @ up.T)


def test_the_loop_runs_where_torch_has_no_threads_to_give():
    """One thread alone takes all tickets."""
    x, down, up = torch.randn(20, 8), torch.randn(4, 8), torch.randn(4, 6)
    y, spans = torch.zeros(20, 6), Spans([(20, 0)])
    pair = struct.pack(low_rank.PAIR, down.data_ptr(), up.data_ptr(), len(down), 0.5)
    pairs = np.frombuffer(pair, dtype=np.uint8)
    given = low_rank.Arguments(
        x=x.data_ptr(),
        y=y.data_ptr(),
        spans=spans.address,
        pairs=pairs.ctypes.data,
        count=spans.count,
        inputs=8,
        outputs=6,
    )
    threads.call(low_rank.LOOP.address(torch.float32), given)
    torch.testing.assert_close(y, 0.5 * x @ down.T @ up)


def test_other_devices_and_types_keep_to_torch():
    """Only what a processor reads from memory, in types that models have, is computed here."""
    assert all(kernels.suits(torch.device("cpu"), dtype) for dtype in TYPES)
    assert not kernels.suits(torch.device("cpu"), torch.float64)
    assert not kernels.suits(torch.device("meta"), torch.float32)


NOWHERE = """
from numba.core import caching
caching.CacheImpl._locator_classes = []
import torch
from dovetail.loader.kernels.one_query import attend
ones = torch.ones(1, 1, 1, 4)
print(attend(ones, ones, ones, mask=None, bias=None, scale=1.0).tolist())
"""


def test_where_nothing_can_be_kept_loops_are_compiled_each_time():
    """A folder that may not be written to costs a second, and no job."""
    child = subprocess.run(
        [sys.executable, "-c", NOWHERE], capture_output=True, text=True, timeout=120, check=True
    )
    assert child.stdout.strip() == "[[[[1.0, 1.0, 1.0, 1.0]]]]"


WITHOUT = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "numba" else found(name, *rest)
import torch
torch.set_num_threads(1)
from dovetail.loader import Row, open_base
with open_base(sys.argv[1]) as base:
    base.attach_directory(sys.argv[2], name="a")
    rows = [Row(f"w{5 + i} w{9 + i}", None if i % 3 == 0 else "a") for i in range(9)]
    for row in base.generate(rows, max_new_tokens=12, batch_size=4):
        print(*row.token_ids)
    print("numba" in sys.modules, file=sys.stderr)
"""


def test_without_numba_a_job_gives_the_same(model_dir, make_adapter):
    """The extra makes jobs faster, and nothing else."""
    import peft

    from dovetail.loader import Row, open_base

    config = peft.LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM")
    adapter = make_adapter("gpt2", config, seed=3, scale=0.2)
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WITHOUT), str(model_dir("gpt2")), str(adapter)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert child.stderr.strip().endswith("False")
    with open_base(model_dir("gpt2")) as base:
        base.attach_directory(adapter, name="a")
        rows = [Row(f"w{5 + i} w{9 + i}", None if i % 3 == 0 else "a") for i in range(9)]
        found = list(base.generate(rows, max_new_tokens=12, batch_size=4))
    assert child.stdout.splitlines() == [" ".join(map(str, row.token_ids)) for row in found]
