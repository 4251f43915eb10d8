"""Score and evaluate with a real base model, real adapters and a real registry."""

from __future__ import annotations

import warnings

import pytest

peft = pytest.importorskip("peft")

import torch  # noqa: E402 - only where peft is
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast  # noqa: E402

from dovetail.errors import IncompatibleBaseModel, InvalidRow  # noqa: E402
from dovetail.loader import Row, open_base  # noqa: E402
from dovetail.registry.store import Registry  # noqa: E402
from dovetail.scoring import ScoreJob, evaluate, score  # noqa: E402

UNKNOWN = "<unk>"
WORDS = {"<pad>": 0, "</s>": 1, UNKNOWN: 2, **{f"w{n}": n for n in range(3, 32)}}
TEXTS = [" ".join(f"w{3 + (n * k) % 29}" for k in range(1, 2 + n % 7)) for n in range(9)]


def make_base(directory, seed):
    """Save a tiny GPT-2 with random weights and a tokenizer of words."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            n_embd=16,
            n_layer=1,
            n_head=2,
            n_positions=32,
            vocab_size=32,
            initializer_range=0.5,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=1,
        )
    )
    model.save_pretrained(directory)
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": UNKNOWN}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory)
    return directory


def make_lora(directory, base, seed):
    """Save a LoRA adapter whose weights do something."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=2,
        target_modules=["c_attn"],
        fan_in_fan_out=True,
        init_lora_weights=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        model = peft.get_peft_model(GPT2LMHeadModel.from_pretrained(base), config)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base model, another one, and a registry with one adapter of two versions."""
    root = tmp_path_factory.mktemp("world")
    base = make_base(root / "base", 1)
    with Registry.open(f"sqlite:///{root / 'r.db'}", (root / "objects").as_uri()) as registry:
        registry.register_base(base, name="tiny")
        for seed in (2, 3):
            registry.register(
                "summary",
                make_lora(root / f"lora{seed}", base, seed),
                base=base,
                task="summarization",
                input_template="w3 {text}",
                generation_config={"max_new_tokens": 4},
            )
        yield registry, base, make_base(root / "other", 9)


@pytest.fixture
def rows(tmp_path, write_rows):
    """A dataset whose rows name both versions by turns."""
    return write_rows(
        tmp_path / "rows.jsonl",
        [
            {"text": text, "wanted": text, "who": f"summary/{1 + n % 2}"}
            for n, text in enumerate(TEXTS)
        ],
    )


def test_a_mixed_file_is_scored_as_the_loader_scores_each_row(world, rows, tmp_path, read_rows):
    """With the template and the generation defaults of each version."""
    registry, directory, _ = world
    report = score(
        ScoreJob(input=rows, output=tmp_path / "out.parquet", adapter_column="who", batch_size=4),
        registry=registry,
    )
    found = read_rows(report.output)
    with open_base(directory, registry=registry) as base:
        for version in ("summary/1", "summary/2"):
            base.attach(version)
        wanted = [next(base.generate([Row(f"w3 {row['text']}", row["who"])])).text for row in found]
        assert {row["base_model"] for row in found} == {report.base_model} == {base.fingerprint}
    assert [row["prediction"] for row in found] == wanted
    assert report.failed == 0


def test_a_row_that_is_too_long_has_its_error_in_the_file(world, tmp_path, write_rows, read_rows):
    """The model's limit is 32 tokens."""
    data = write_rows(tmp_path / "in.jsonl", [{"text": "w5 " * 40}, {"text": "w5"}])
    job = ScoreJob(input=data, output=tmp_path / "out.jsonl", reference="summary@latest")
    assert score(job, registry=world[0]).failed == 1
    found = read_rows(tmp_path / "out.jsonl")
    assert found[0]["error"]
    assert found[1]["error"] is None


def test_other_weights_are_refused_unless_asked_for(world, rows, tmp_path):
    """The fingerprint that counts is that of the weights which were opened."""
    registry, _, other = world
    job = {"input": rows, "output": tmp_path / "out.jsonl", "reference": "summary/1"}
    with pytest.raises(IncompatibleBaseModel):
        score(ScoreJob(**job, base=str(other)), registry=registry)
    allowed = ScoreJob(**job, base=str(other), allow_base_mismatch=True)
    report = score(allowed, registry=registry)
    assert report.base_model != registry.resolve("summary/1").base_model


def test_evaluations_of_two_versions_can_be_compared(world, rows):
    """What is recorded lets the registry compare them example by example."""
    registry = world[0]
    for version in ("summary/1", "summary/2"):
        found = evaluate(version, rows, registry=registry, reference_column="wanted")
        assert found.n == len(TEXTS)
        assert found.settings["max_new_tokens"] == 4
    first, second = (registry.evaluations(f"summary/{n}")[0] for n in (1, 2))
    assert first.dataset_digest == second.dataset_digest
    assert (first.settings, first.library) == (second.settings, second.library)
    registry.promote(
        "summary/2", "staging", require=["rougeL >= 0"], reason="a gate reads the scores"
    )


def test_the_bare_base_model_is_evaluated(world, rows):
    """By its registered name, with no adapter attached."""
    registry = world[0]
    found = evaluate(
        None, rows, registry=registry, base="tiny", reference_column="wanted", max_new_tokens=4
    )
    assert found.name is None
    assert registry.evaluations(base="tiny")


def test_an_evaluation_with_a_row_that_is_too_long_is_refused(world, tmp_path, write_rows):
    """The row is named."""
    data = write_rows(tmp_path / "in.jsonl", [{"text": "w5 " * 40, "wanted": "w5"}])
    with pytest.raises(InvalidRow, match="row 0"):
        evaluate("summary/1", data, registry=world[0], reference_column="wanted")
