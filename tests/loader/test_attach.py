"""Attaching, switching and detaching leave the base model as it was."""

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from dovetail.errors import AdapterNotFound, InvalidInput
from dovetail.loader import Row, open_base


def tree(model):
    """Everything that adapters and their library could have changed in a model."""
    return {
        name: (
            id(module),
            sorted(vars(module)),
            list(module._forward_hooks),
            list(module._forward_pre_hooks),
            [id(parameter) for parameter in module.parameters(recurse=False)],
        )
        for name, module in model.named_modules()
    }


def logits(model):
    """What the model says on fixed tokens."""
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 40)[None]).logits


def write(base, texts, adapter):
    """Generate for all texts with one adapter."""
    rows = [Row(text, adapter) for text in texts]
    return [generation.token_ids for generation in base.generate(rows, max_new_tokens=6)]


@pytest.fixture(scope="module")
def kinds(make_adapter):
    """Adapters of different sorts for the GPT-2."""
    tokens = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 5}
    lora = {"task_type": "CAUSAL_LM", "r": 2, "target_modules": ["c_attn"]}
    configs = {
        "lora": peft.LoraConfig(**lora),
        "saved-head": peft.LoraConfig(modules_to_save=["ln_f"], **lora),
        "tokens": peft.LoraConfig(trainable_token_indices=[5, 9], **lora),
        "ia3": peft.IA3Config(task_type="CAUSAL_LM"),
        "prompt": peft.PromptTuningConfig(**tokens),
        "prefix": peft.PrefixTuningConfig(**tokens),
    }
    return {name: make_adapter("gpt2", config, seed=3) for name, config in configs.items()}


def test_detaching_leaves_the_model_bit_for_bit_as_it_was(gpt2, kinds, texts):
    """Modules, attributes, hooks, parameters and logits are those of before."""
    before, said = tree(gpt2.model), logits(gpt2.model)
    for name, directory in kinds.items():
        gpt2.attach_directory(directory, name=name)
    attached = tree(gpt2.model)
    assert {name: found[0] for name, found in attached.items()} == {
        name: found[0] for name, found in before.items()
    }
    assert torch.equal(logits(gpt2.model), said)
    list(gpt2.generate([Row(text, name) for text in texts for name in kinds], max_new_tokens=3))
    assert tree(gpt2.model) == attached
    for name in kinds:
        gpt2.detach(name)
    assert tree(gpt2.model) == before
    assert torch.equal(logits(gpt2.model), said)
    assert gpt2.attached == ()


@pytest.mark.parametrize("name", ["saved-head", "tokens"])
def test_modules_that_were_trained_whole_are_attached(gpt2, kinds, texts, peft_alone, name):
    """Saved modules and trained tokens act on their own rows only."""
    gpt2.attach_directory(kinds[name], name=name)
    gpt2.attach_directory(kinds["lora"], name="lora")
    assert write(gpt2, texts, name) == peft_alone("gpt2", kinds[name], texts, max_new_tokens=6)
    assert write(gpt2, texts, "lora") == peft_alone("gpt2", kinds["lora"], texts, max_new_tokens=6)


def test_switching_there_and_back_gives_the_same(gpt2, kinds, texts):
    """A, then B, then A again: the last is the first."""
    for name in ("lora", "ia3", "prefix"):
        gpt2.attach_directory(kinds[name], name=name)
    bare = write(gpt2, texts, None)
    first = write(gpt2, texts, "lora")
    assert write(gpt2, texts, "ia3") != first
    write(gpt2, texts, "prefix")
    assert write(gpt2, texts, "lora") == first
    assert write(gpt2, texts, None) == bare != first


def test_interleaved_iterators_do_not_disturb_each_other(gpt2, kinds, texts):
    """Two calls that are read in turns write what each would alone."""
    for name in ("lora", "ia3"):
        gpt2.attach_directory(kinds[name], name=name)
    expected = {name: write(gpt2, texts, name) for name in ("lora", "ia3")}
    calls = {
        name: gpt2.generate([Row(text, name) for text in texts], batch_size=1, max_new_tokens=6)
        for name in expected
    }
    for number in range(len(texts)):
        for name, call in calls.items():
            assert next(call).token_ids == expected[name][number]


def test_attaching_says_how_rows_are_run(gpt2, kinds):
    """The record shows kind, route, virtual tokens and digest."""
    prompt = gpt2.attach_directory(kinds["prompt"], name="soft")
    assert (prompt.peft_type, prompt.route, prompt.virtual_tokens) == ("PROMPT_TUNING", "native", 5)
    assert prompt.payload_digest.startswith("sha256:")
    assert prompt.path == kinds["prompt"]
    assert gpt2.attach_directory(kinds["lora"], name="lora").route == "native"
    prefix = gpt2.attach_directory(kinds["prefix"], name="prefix")
    assert (prefix.route, prefix.virtual_tokens) == ("native", 5)
    assert gpt2.attach_directory(kinds["tokens"], name="tokens").route == "reference"
    references = [adapter.reference for adapter in gpt2.attached]
    assert references == ["soft", "lora", "prefix", "tokens"]


def test_attaching_again_changes_nothing(gpt2, kinds, texts):
    """The second call gives the record of the first; an equal payload shares its slot."""
    first = gpt2.attach_directory(kinds["lora"], name="one")
    assert gpt2.attach_directory(kinds["lora"], name="one") is first
    second = gpt2.attach_directory(kinds["lora"], name="two")
    assert second.payload_digest == first.payload_digest
    expected = write(gpt2, texts, "one")
    gpt2.detach("one")
    assert write(gpt2, texts, "two") == expected


def test_detaching_what_is_not_there_is_an_error(gpt2):
    """The name is in the message."""
    with pytest.raises(AdapterNotFound, match="'nobody'; attached are: none"):
        gpt2.detach("nobody")


def test_attaching_keeps_the_random_state(gpt2, kinds):
    """A caller's own sampling does not change because an adapter was attached."""
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    gpt2.attach_directory(kinds["lora"], name="lora")
    assert torch.equal(torch.rand(4), expected)


def test_closing_takes_hooks_and_adapters_off(model_dir, kinds):
    """The model that is left has no hook of ours, and the base says that it is closed."""
    with open_base(model_dir("gpt2")) as base:
        base.attach_directory(kinds["lora"], name="lora")
        list(base.generate([Row("w5", "lora")], max_new_tokens=1))
        model = base.model
        assert model.lm_head._forward_pre_hooks
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert base.attached == ()
    base.close()
    with pytest.raises(InvalidInput, match="is closed; open it again"):
        base.generate([])
    with pytest.raises(InvalidInput, match="is closed"):
        base.attach_directory(kinds["lora"])


def test_the_output_embedding_sees_contiguous_input(gpt2):
    """The slice of hidden states is copied before the head, which is slow on slices."""
    seen = []
    handle = gpt2.model.lm_head.register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0].is_contiguous())
    )
    list(gpt2.generate([Row("w5 w6"), Row("w7")], max_new_tokens=2))
    handle.remove()
    assert seen
    assert all(seen)


def test_the_model_is_frozen_in_its_own_type(gpt2, model_dir):
    """No parameter takes gradients, dropout is off, and another type can be asked for."""
    assert not gpt2.model.training
    assert not any(parameter.requires_grad for parameter in gpt2.model.parameters())
    assert gpt2.model.dtype == torch.float32
    with open_base(model_dir("gpt2"), dtype="bfloat16") as half:
        assert half.model.dtype == torch.bfloat16
        assert half.fingerprint == gpt2.fingerprint
        (generation,) = half.generate([Row("w5 w6")], max_new_tokens=2)
        assert generation.error is None
    with pytest.raises(InvalidInput, match="'float99' is no type"):
        open_base(model_dir("gpt2"), dtype="float99")


def test_a_checkpoint_of_pytorch_files_can_be_opened(tmp_path, model_dir, texts, gpt2):
    """Weights in pytorch_model.bin give the same fingerprint and the same tokens."""
    model = AutoModelForCausalLM.from_pretrained(model_dir("gpt2"))
    model.config.save_pretrained(tmp_path)
    names = {entry.name for entry in gpt2.checkpoint.manifest.tensors}
    state = {name: value for name, value in model.state_dict().items() if name in names}
    torch.save(state, tmp_path / "pytorch_model.bin")
    for file in model_dir("gpt2").glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with open_base(tmp_path) as base:
        assert base.fingerprint == gpt2.fingerprint
        assert write(base, texts, None) == write(gpt2, texts, None)
