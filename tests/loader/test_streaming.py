"""Results as rows finish, what ends a row, and adapters that come and go while a job runs."""

import collections
import itertools

import peft
import pytest

from dovetail.loader import Row

NAMES = ("lora", "prompt", "ia3", "prefix", "dora")


@pytest.fixture(scope="module")
def directories(make_adapter, lora, prompt):
    """Adapters for the GPT-2 by name."""
    task = {"task_type": "CAUSAL_LM"}
    return {
        "lora": lora,
        "prompt": prompt,
        "ia3": make_adapter("gpt2", peft.IA3Config(**task), seed=5),
        "prefix": make_adapter("gpt2", peft.PrefixTuningConfig(num_virtual_tokens=4, **task)),
        "dora": make_adapter(
            "gpt2", peft.LoraConfig(r=2, use_dora=True, target_modules=["c_attn"], **task)
        ),
        "other": make_adapter(
            "gpt2", peft.LoraConfig(r=2, target_modules=["c_proj"], **task), seed=9
        ),
    }


@pytest.fixture
def base(gpt2, directories):
    """A GPT-2 with adapters of several kinds; the one called ``other`` is not attached."""
    for name in NAMES:
        gpt2.attach_directory(directories[name], name=name)
    return gpt2


@pytest.fixture(scope="module")
def alone(oracle, directories):
    """Give a function: what the oracle writes for a row."""

    def write(row, **options):
        options = {"max_new_tokens": row.max_new_tokens or 8, **options}
        return oracle.tokens("gpt2", directories.get(row.adapter), row.text, **options)

    return write


@pytest.fixture
def rows(texts):
    """Rows in which adapters and limits change from row to row."""
    names = itertools.cycle([None, *NAMES])
    limits = itertools.cycle([9, 1, 5, 12, 3, 7, 2])
    return [
        Row(text, name, max_new_tokens=limit)
        for text, name, limit in zip([*texts, *texts], names, limits, strict=False)
    ]


@pytest.fixture
def endless_text(texts, alone):
    """A text after which the bare model does not come to an end for forty tokens."""
    return next(t for t in texts if len(alone(Row(t, max_new_tokens=40))) == 40)


def test_results_come_in_the_order_of_the_input(base, rows):
    """The order of rows, whatever the order in which they are done."""
    told = []
    found = list(base.generate(rows, batch_size=4, on_done=told.append))
    assert [generation.index for generation in found] == list(range(len(rows)))
    assert sorted(generation.index for generation in told) == list(range(len(rows)))


def test_results_can_come_as_rows_finish(base, rows, alone):
    """Each row exactly once, as it is done, with the same tokens."""
    told = []
    found = []
    for generation in base.generate(rows, batch_size=4, ordered=False, on_done=told.append):
        assert generation in told
        found.append(generation)
    assert found == told
    assert sorted(generation.index for generation in found) == list(range(len(rows)))
    for generation in found:
        assert generation.token_ids == alone(rows[generation.index])


def test_a_short_row_does_not_wait_for_a_long_one(base, endless_text):
    """Rows of one token that run beside a row of forty are done before it."""
    limits = [40, 1, 1, 1, 1, 1]
    rows = [Row(endless_text, max_new_tokens=limit) for limit in limits]
    found = [g.index for g in base.generate(rows, batch_size=2, ordered=False)]
    assert sorted(found) == list(range(6))
    assert found[-1] == 0


def test_failed_rows_are_told_of_once(base, rows):
    """A row that cannot be scored is one result among the others."""
    bad = [Row(""), *rows[:5], Row("w5 " * 200, "prompt"), Row("w5", max_new_tokens=0)]
    told = []
    found = list(base.generate(bad, batch_size=2, ordered=False, on_done=told.append))
    assert found == told
    assert sorted(generation.index for generation in found) == list(range(len(bad)))
    assert {g.index for g in found if g.error is not None} == {0, 6, 7}


@pytest.mark.parametrize("ordered", [True, False])
def test_no_row_of_an_endless_job_waits_for_ever(base, texts, ordered):
    """Results come while rows are still read, and a lone short row comes among them."""
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            if number == 0:
                yield Row(texts[0], "lora", max_new_tokens=1)
            else:
                yield Row(texts[number % len(texts)], "ia3", max_new_tokens=4)

    results = base.generate(endless(), batch_size=2, ordered=ordered)
    found = [generation.index for generation in itertools.islice(results, 100)]
    results.close()
    assert len(set(found)) == len(found)
    assert 0 in found
    assert len(taken) <= 100 + 64


def test_each_of_several_tokens_ends_a_row(base, rows, alone):
    """Rows end before any token of a set, as they would alone."""
    rows = [Row(row.text, row.adapter, max_new_tokens=12) for row in rows]
    written = [alone(row, eos_token_id=[]) for row in rows]
    ends = sorted({tokens[len(tokens) // 2] for tokens in written[:4]})
    expected = [alone(row, eos_token_id=ends) for row in rows]
    assert len(ends) > 1
    assert sum(len(a) < len(b) for a, b in zip(expected, written, strict=True)) >= 4
    found = list(base.generate(rows, batch_size=4, max_new_tokens=12, eos_token_id=ends))
    assert [generation.token_ids for generation in found] == expected
    reasons = ["length" if len(tokens) == 12 else "stop" for tokens in expected]
    assert [generation.finish_reason for generation in found] == reasons


@pytest.mark.parametrize("sort", ["one", "several", "part of a word"])
def test_stop_strings_end_rows_as_in_transformers(base, rows, alone, sort):
    """The text ends with the string that stopped it; a string in the prompt stops nothing."""
    rows = [Row(row.text, row.adapter, max_new_tokens=12) for row in rows]
    written = [alone(row) for row in rows]
    in_rows = collections.Counter(token for tokens in written for token in set(tokens[1:]))
    words = [f"w{token}" for token, rows_of in in_rows.most_common() if token > 2 and rows_of < 7]
    strings = {"one": words[:1], "several": words[1:4], "part of a word": ["w2", "w35"]}[sort]
    expected = [alone(row, stop_strings=strings) for row in rows]
    stopped = [len(a) < len(b) for a, b in zip(expected, written, strict=True)]
    assert any(stopped)
    assert not all(stopped)
    found = list(base.generate(rows, batch_size=4, max_new_tokens=12, stop_strings=strings))
    assert [generation.token_ids for generation in found] == expected
    for generation, early in zip(found, stopped, strict=True):
        if early:
            assert generation.finish_reason == "stop"
            last = generation.text.split()[-1]
            assert any(last.startswith(string) for string in strings)


def test_a_stop_string_in_the_prompt_stops_nothing(base, alone, endless_text):
    """Only what the model writes can end a row."""
    word = next(w for w in endless_text.split() if int(w[1:]) not in alone(Row(endless_text)))
    (found,) = base.generate([Row(endless_text)], max_new_tokens=8, stop_strings=[word])
    assert found.token_ids == alone(Row(endless_text))
    assert found.finish_reason == "length"


def interrupted(results, *, after, act):
    """Read all results, and do something after a number of them."""
    found = list(itertools.islice(results, after))
    act()
    return [*found, *results]


@pytest.mark.parametrize("ordered", [True, False])
def test_attaching_while_a_job_runs_changes_no_row(base, rows, alone, directories, ordered):
    """An adapter that arrives between two results leaves all rows as they are."""
    found = interrupted(
        base.generate(rows, batch_size=2, ordered=ordered),
        after=3,
        act=lambda: base.attach_directory(directories["other"], name="other"),
    )
    assert len(found) == len(rows)
    assert all(g.token_ids == alone(rows[g.index]) for g in found)
    (late,) = base.generate([Row(rows[0].text, "other")], max_new_tokens=8)
    assert late.token_ids == alone(Row(rows[0].text, "other"))


def test_a_job_reaches_what_is_attached_while_it_runs(base, rows, alone, directories):
    """Rows may name an adapter that is attached before they are read."""

    def arriving():
        yield from rows
        base.attach_directory(directories["other"], name="other")
        yield Row(rows[0].text, "other", max_new_tokens=6)

    found = list(base.generate(arriving(), batch_size=2))
    assert found[-1].token_ids == alone(Row(rows[0].text, "other", max_new_tokens=6))
    assert all(g.token_ids == alone(row) for g, row in zip(found, rows, strict=False))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("names", [*((name,) for name in NAMES), NAMES], ids="+".join)
def test_detaching_while_a_job_runs_changes_no_row(base, rows, alone, names, ordered):
    """Rows that run and rows that wait are completed with the adapters that the job began with."""

    def detach():
        for name in names:
            base.detach(name)

    results = base.generate(rows, batch_size=2, ordered=ordered)
    found = interrupted(results, after=1, act=detach)
    assert sorted(g.index for g in found) == list(range(len(rows)))
    assert all(g.token_ids == alone(rows[g.index]) for g in found)
    assert [adapter.reference for adapter in base.attached] == [
        name for name in NAMES if name not in names
    ]


def test_another_adapter_under_the_same_name_is_for_later_jobs(base, rows, alone, directories):
    """A job keeps what it began with; the next one takes what is attached then."""
    found = interrupted(
        base.generate(rows, batch_size=2),
        after=1,
        act=lambda: base.attach_directory(directories["other"], name="lora"),
    )
    assert all(g.token_ids == alone(rows[g.index]) for g in found)
    (late,) = base.generate([Row(rows[0].text, "lora")], max_new_tokens=8)
    assert late.token_ids == alone(Row(rows[0].text, "other"))


def test_replaying_a_job_gives_the_same(base, rows, alone):
    """A job that is left in the middle, and then run again, writes what it would have written."""
    results = base.generate(rows, batch_size=3)
    first = list(itertools.islice(results, 4))
    results.close()
    again = list(base.generate(rows, batch_size=3))
    assert again[:4] == first
    assert [g.token_ids for g in again] == [alone(row) for row in rows]
    assert list(base.generate(rows, batch_size=3)) == again


def test_detached_and_attached_again_gives_the_same(base, rows, directories):
    """Between two equal jobs every adapter may go and come back in another order."""
    before = [g.token_ids for g in base.generate(rows, batch_size=3)]
    for name in NAMES:
        base.detach(name)
    for name in reversed(NAMES):
        base.attach_directory(directories[name], name=name)
    assert [g.token_ids for g in base.generate(rows, batch_size=3)] == before
