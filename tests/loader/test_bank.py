"""Adapters under a memory budget, and others that come and go from another thread."""

import gc
import itertools
import shutil
import threading

import peft
import pytest
from safetensors.torch import load_file, save_file

from dovetail.errors import AdapterNotFound, DigestMismatch, InvalidInput
from dovetail.loader import Row, open_base
from dovetail.loader.native.adapter import NativeAdapter

COUNT = 6
NAMES = tuple(f"lora-{number}" for number in range(COUNT))


@pytest.fixture(scope="module", autouse=True)
def _others_aside():
    """Leave out what was made before when looking for what is in memory: models of other tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def directories(make_adapter):
    """LoRA adapters of equal size, and a soft prompt, by name."""
    task = {"task_type": "CAUSAL_LM"}
    config = peft.LoraConfig(r=4, target_modules=["c_attn", "c_proj"], **task)
    made = {name: make_adapter("gpt2", config, seed=at) for at, name in enumerate(NAMES)}
    made["prompt"] = make_adapter(
        "gpt2", peft.PromptTuningConfig(num_virtual_tokens=5, **task), seed=9
    )
    return made


@pytest.fixture(scope="module")
def size(directories):
    """Bytes of one LoRA, and of the copy of a half of it that running keeps."""
    tensors = load_file(weights_of(directories[NAMES[0]]))
    kept = [tensor for name, tensor in tensors.items() if "lora_B" in name]
    return sum(tensor.nbytes for tensor in (*tensors.values(), *kept))


@pytest.fixture
def small(model_dir, directories, size):
    """A base with room for two LoRA adapters, and more attached."""
    with open_base(model_dir("gpt2"), adapter_memory=2 * size) as base:
        for name, directory in directories.items():
            base.attach_directory(directory, name=name)
        yield base


@pytest.fixture(scope="module")
def rows(texts):
    """Rows in which adapters change from row to row."""
    names = itertools.cycle([None, *NAMES, "prompt"])
    return [Row(text, name, 6) for text, name in zip([*texts, *texts], names, strict=False)]


@pytest.fixture(scope="module")
def alone(oracle, directories):
    """Give a function: what a row gets alone."""

    def write(row):
        directory = directories.get(row.adapter)
        return oracle.tokens("gpt2", directory, row.text, max_new_tokens=row.max_new_tokens)

    return write


def weights_of(directory):
    """Return the path of an adapter's weights."""
    return directory / "adapter_model.safetensors"


def in_memory():
    """Return the adapters whose weights are in memory, whoever holds them."""
    gc.collect()
    return [found for found in gc.get_objects() if type(found) is NativeAdapter]


def taken(base):
    """Return the bytes of all weights in memory of adapters that are attached to a base."""
    digests = {adapter.payload_digest for adapter in base.attached}
    return sum(found.size for found in in_memory() if found.digest in digests)


def written(base, rows, **options):
    """Return the tokens of rows."""
    return [g.token_ids for g in base.generate(rows, batch_size=3, **options)]


def test_attaching_more_than_fits_keeps_the_newest(model_dir, directories, size):
    """Never more than the budget, or than one adapter where that is more."""

    def sizes():
        return [found.size for found in in_memory()]

    for room, count in ((2 * size, 2), (2 * size + size // 2, 2), (1, 1), (None, COUNT)):
        with open_base(model_dir("gpt2"), adapter_memory=room) as base:
            for at, name in enumerate(NAMES, start=1):
                base.attach_directory(directories[name], name=name)
                assert sizes() == [size] * min(at, count)
            assert [adapter.reference for adapter in base.attached] == list(NAMES)
        del base
        assert sizes() == []


def test_rows_of_adapters_that_were_let_go_of_are_right(small, rows, alone, size):
    """In one job with all of them, in a job for each, and in any order after that."""
    expected = [alone(row) for row in rows]
    assert len({str(tokens) for tokens in expected}) > COUNT
    assert written(small, rows) == expected
    assert taken(small) <= 2 * size + size // 2
    for name in (*NAMES, *reversed(NAMES)):
        own = [row for row in rows if row.adapter == name]
        assert written(small, own) == [alone(row) for row in own]
    assert written(small, rows, ordered=True) == expected
    assert taken(small) <= 2 * size + size // 2


def test_what_was_used_last_stays(small, rows, size):
    """The least recently used goes: an adapter that is used again is still the same object."""
    first = [row for row in rows if row.adapter == NAMES[0]]
    written(small, first)
    (mine,) = [a for a in in_memory() if a.digest == digest_of(small, NAMES[0])]
    for name in NAMES[1:]:
        written(small, [row for row in rows if row.adapter == name])
        written(small, first)
        assert any(found is mine for found in in_memory())


def digest_of(base, name):
    """Return an adapter's digest."""
    return next(a.payload_digest for a in base.attached if a.reference == name)


def test_files_that_changed_meanwhile_are_refused(small, rows, directories, tmp_path, alone):
    """An adapter that has to be read again is the one that was attached, or none."""
    copied = tmp_path / "copied"
    shutil.copytree(directories["lora-0"], copied)
    tensors = load_file(weights_of(copied))
    tensors[next(iter(tensors))] += 1
    save_file(tensors, weights_of(copied))
    small.attach_directory(copied, name="copied")
    mine = [Row(row.text, "copied", 3) for row in rows[:3]]
    before = written(small, mine)
    others = [row for row in rows if row.adapter in NAMES]
    assert written(small, others) == [alone(row) for row in others]
    tensors[next(iter(tensors))] += 1
    save_file(tensors, tmp_path / "new")
    # Another file under the name, as a download makes it; the old one may still be mapped.
    (tmp_path / "new").replace(weights_of(copied))
    with pytest.raises(DigestMismatch, match="have changed since they were attached"):
        written(small, mine)
    assert written(small, others) == [alone(row) for row in others]
    small.detach("copied")
    small.attach_directory(copied, name="copied")
    assert written(small, mine) != before


def test_equal_payloads_share_their_weights(model_dir, directories, tmp_path, rows, alone):
    """Two names, or two directories, of one payload are in memory once."""
    shutil.copytree(directories["lora-1"], tmp_path / "copy")
    with open_base(model_dir("gpt2")) as base:
        one = base.attach_directory(directories["lora-1"], name="one")
        count = len(in_memory())
        two = base.attach_directory(tmp_path / "copy", name="two")
        assert one.payload_digest == two.payload_digest
        assert len(in_memory()) == count
        texts = [row.text for row in rows[:4]]
        expected = [alone(Row(text, "lora-1", 5)) for text in texts]
        assert written(base, [Row(text, "two", 5) for text in texts]) == expected
        base.detach("one")
        assert written(base, [Row(text, "two", 5) for text in texts]) == expected
        base.detach("two")
        with pytest.raises(AdapterNotFound):
            written(base, [Row(texts[0], "two", 5)])


@pytest.mark.parametrize("budget", [None, 1], ids=["roomy", "tight"])
def test_adapters_come_and_go_while_a_job_runs(model_dir, directories, rows, alone, budget):
    """Another thread attaches and detaches without pause; no row changes, nothing is left."""
    coming = NAMES[3:]
    failed, stop, rounds = [], threading.Event(), itertools.count()
    with open_base(model_dir("gpt2"), adapter_memory=budget) as base:
        for name in (*NAMES[:3], "prompt"):
            base.attach_directory(directories[name], name=name)
        mine = [row for row in rows if row.adapter not in coming]
        expected = [alone(row) for row in mine]

        def come_and_go():
            try:
                while not stop.is_set():
                    for name in coming:
                        base.attach_directory(directories[name], name=name)
                        # The same payload under another name, too.
                        base.attach_directory(directories["lora-0"], name=f"again-{name}")
                    for name in coming:
                        base.detach(name)
                        base.detach(f"again-{name}")
                    next(rounds)
            except BaseException as error:  # noqa: BLE001 (it is shown below)
                failed.append(error)

        thread = threading.Thread(target=come_and_go)
        thread.start()
        try:
            for _ in range(8):
                assert written(base, mine) == expected
        finally:
            stop.set()
            thread.join(timeout=60)
        assert not failed
        assert next(rounds) > 3
        assert sorted(a.reference for a in base.attached) == sorted([*NAMES[:3], "prompt"])
        assert written(base, mine) == expected
        for name in (*NAMES[:3], "prompt"):
            base.detach(name)
        handed = [m for m in base.model.modules() if m._forward_hooks]
        assert handed == []


def test_threads_that_take_each_others_adapters_off_get_errors_that_say_so(model_dir, directories):
    """Whoever comes late is told that nothing is attached, and the bank stays whole."""
    wrong = []
    with open_base(model_dir("gpt2")) as base:

        def work(offset):
            for at in range(60):
                name = NAMES[(at + offset) % 3]
                try:
                    base.attach_directory(directories["lora-0"], name=name)
                    list(base.generate([Row("w5", name, 1)])) if offset == 0 else None
                    base.detach(name)
                except AdapterNotFound:
                    continue
                except BaseException as error:  # noqa: BLE001 (it is shown below)
                    wrong.append(error)
                    return

        threads = [threading.Thread(target=work, args=(offset,)) for offset in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert wrong == []
        for adapter in base.attached:
            base.detach(adapter.reference)
        assert not any(module._forward_hooks for module in base.model.modules())


def test_two_of_a_kind_on_a_row_are_refused(small, directories):
    """Two LoRA adapters, two soft prompts; the message names both."""
    with pytest.raises(InvalidInput, match=r"one LORA at most, not both 'lora-0' and 'lora-1'"):
        written(small, [Row("w5"), Row("w5", ("lora-0", "lora-1"))])
    small.attach_directory(directories["prompt"], name="second")
    with pytest.raises(InvalidInput, match="one soft prompt at most"):
        written(small, [Row("w5", ("prompt", "second"))])


def test_an_unknown_adapter_is_named_when_its_row_is_reached(small, texts, alone):
    """Rows that were finished before are there."""
    source = iter([*(Row(text, NAMES[0], 2) for text in texts * 8), Row("w5", "nobody")])
    results = small.generate(source, batch_size=1)
    found = [next(results) for _ in range(20)]
    assert found[0].token_ids == alone(Row(texts[0], NAMES[0], 2))
    with pytest.raises(AdapterNotFound, match="'nobody'; attached are: lora-0"):
        list(results)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": -3}, "whole number from 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"prefill_tokens": 0}, "prefill_tokens is 0"),
        ({"prefill_tokens": "many"}, "prefill_tokens is 'many'"),
        ({"seed": "five"}, "seed"),
        ({"stop_strings": [""]}, "none of them empty"),
        ({"stop_strings": ["w5", 3]}, "none of them empty"),
        ({"do_sample": True, "temperature": 0.0}, "temperature"),
        ({"do_sample": True, "top_p": 1.5}, "top_p"),
    ],
    ids=str,
)
def test_bad_options_are_refused(small, options, message):
    """With the option's name, the value and what is right."""
    with pytest.raises(InvalidInput, match=message):
        list(small.generate([Row("w5")], **options))


def test_a_job_of_empty_texts_is_all_errors(small):
    """Each row says so; nothing runs."""
    rows = [Row("", name) for name in (None, *NAMES)] + [Row("  \n", "prompt")]
    found = list(small.generate(rows, batch_size=2))
    assert [g.finish_reason for g in found] == ["error"] * len(rows)
    assert all("is empty for this tokenizer" in g.error for g in found)
