"""The many kinds of adapters that PEFT has, beside the common ones."""

import peft
import pytest

from dovetail.loader import Row, open_base

TASK = {"task_type": "CAUSAL_LM"}
LAYERS = {"target_modules": ["q_proj", "v_proj"], **TASK}
STEPS = {"total_step": 10, "tinit": 1, "tfinal": 1, "deltaT": 1}
KINDS = {
    "adalora": lambda: peft.AdaLoraConfig(init_r=4, target_r=4, **STEPS, **LAYERS),
    "adaption-prompt": lambda: peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=1, **TASK),
    "cartridge": lambda: peft.CartridgeConfig(num_virtual_tokens=5, **TASK),
    "cpt": lambda: peft.CPTConfig(
        cpt_token_ids=[3, 4, 5], cpt_mask=[1, 1, 1], cpt_tokens_type_mask=[1, 1, 1], **TASK
    ),
    "lily": lambda: peft.LilyConfig(**LAYERS),
    "loha": lambda: peft.LoHaConfig(r=4, **LAYERS),
    "lokr": lambda: peft.LoKrConfig(r=4, **LAYERS),
    "lora-all-linear": lambda: peft.LoraConfig(r=4, target_modules="all-linear", **TASK),
    "lora-on-the-head": lambda: peft.LoraConfig(r=4, target_modules=["lm_head", "q_proj"], **TASK),
    "lora-patterns": lambda: peft.LoraConfig(
        r=4, rank_pattern={"layers.0.self_attn.q_proj": 2}, alpha_pattern={"v_proj": 16}, **LAYERS
    ),
    "lora-saved-embedding": lambda: peft.LoraConfig(
        r=4, modules_to_save=["lm_head", "embed_tokens"], **LAYERS
    ),
    "lora-tokens": lambda: peft.LoraConfig(r=4, trainable_token_indices=[4, 8], **LAYERS),
    "oft": lambda: peft.OFTConfig(oft_block_size=8, r=0, **LAYERS),
    "prefix-projection": lambda: peft.PrefixTuningConfig(
        num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=16, **TASK
    ),
    "prompt-saved-head": lambda: peft.PromptTuningConfig(
        num_virtual_tokens=4, modules_to_save=["lm_head"], **TASK
    ),
    "p-tuning-lstm": lambda: peft.PromptEncoderConfig(
        num_virtual_tokens=4,
        encoder_reparameterization_type="LSTM",
        encoder_hidden_size=16,
        **TASK,
    ),
    "vblora": lambda: peft.VBLoRAConfig(r=4, num_vectors=16, vector_length=8, topk=2, **LAYERS),
    "vera": lambda: peft.VeraConfig(r=4, **LAYERS),
}


@pytest.fixture(scope="module")
def base(model_dir):
    """An opened Llama."""
    with open_base(model_dir("llama")) as opened:
        yield opened


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_writes_what_peft_alone_would(base, make_adapter, peft_alone, texts, kind):
    """In padded batches beside bare rows, and without a trace when it is detached."""
    directory = make_adapter("llama", KINDS[kind](), scale=0.8)
    some = texts[:6]
    bare = peft_alone("llama", None, some, max_new_tokens=6)
    alone = peft_alone("llama", directory, some, max_new_tokens=6)
    base.attach_directory(directory, name=kind)
    rows = [Row(text, name) for text in some for name in (kind, None)]
    found = [g.token_ids for g in base.generate(rows, batch_size=4, max_new_tokens=6)]
    assert found[0::2] == alone != bare
    assert found[1::2] == bare
    base.detach(kind)
    rows = [Row(text) for text in some]
    assert [g.token_ids for g in base.generate(rows, max_new_tokens=6)] == bare
