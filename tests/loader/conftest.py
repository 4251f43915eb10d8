"""Tiny random models, adapters that PEFT wrote, and PEFT itself as the oracle."""

import copy
import importlib.util
import socket
from pathlib import Path

import pytest

pytest.importorskip("peft")

import peft
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    T5Config,
)

from dovetail.loader import open_base
from dovetail.registry.store import Registry

VOCABULARY = 64
PAD, EOS, UNKNOWN = 0, 1, 2
IDS = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": EOS}


def _load_beside(name):
    """Load a module beside this file; under importlib mode it cannot be imported."""
    file = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"dovetail_tests_loader_{name}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


oracles = _load_beside("oracle")


def make_tokenizer(directory, *, swap=False, end=False):
    """Save a tokenizer of words w3 ... w63; with ``swap`` two words change places."""
    words = {"<pad>": PAD, "</s>": EOS, "<unk>": UNKNOWN}
    words |= {f"w{i}": i for i in range(3, VOCABULARY)}
    if swap:
        words["w3"], words["w4"] = words["w4"], words["w3"]
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if end:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", EOS)]
        )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory)


ENCODER_DECODERS = ("t5", "bart")
WINDOWED = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.5,
    **IDS,
}
CONFIGS = {
    "gpt2": GPT2Config(  # learned positions, Conv1D layers
        n_embd=32, n_layer=2, n_head=4, n_positions=96, initializer_range=0.4, **IDS
    ),
    "llama": LlamaConfig(  # rotary positions, grouped queries
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        initializer_range=0.5,
        **IDS,
    ),
    "opt": OPTConfig(  # learned positions with an offset
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=96,
        word_embed_proj_dim=32,
        init_std=0.5,
        **IDS,
    ),
    "bloom": BloomConfig(  # linear biases instead of positions
        hidden_size=32, n_layer=2, n_head=4, initializer_range=0.5, **IDS
    ),
    "mistral": MistralConfig(  # a sliding window in every layer
        sliding_window=6, **WINDOWED
    ),
    "qwen3": Qwen3Config(  # full attention in the first layer, a sliding window above it
        head_dim=8, use_sliding_window=True, max_window_layers=1, sliding_window=6, **WINDOWED
    ),
    "t5": T5Config(  # encoder and decoder, relative positions
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        initializer_factor=4.0,
        decoder_start_token_id=PAD,
        **IDS,
    ),
    "bart": BartConfig(  # encoder and decoder, learned positions, a forced last token
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=96,
        init_std=0.5,
        decoder_start_token_id=EOS,
        forced_eos_token_id=EOS,
        **IDS,
    ),
}


def _config(name):
    """Configure an architecture; under a name like ``llama-long`` with room for 192 positions."""
    config = copy.deepcopy(CONFIGS[name.removesuffix("-long")])
    if name.endswith("-long") and hasattr(config, "max_position_embeddings"):
        config.max_position_embeddings = 192
    return config


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    """Give a function: architecture to the directory of a random model with its tokenizer."""
    made = {}

    def make(kind):
        if kind not in made:
            directory = tmp_path_factory.mktemp(kind)
            torch.manual_seed(7)
            model = auto_class(kind).from_config(_config(kind))
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim == 1:
                        parameter.add_(torch.randn_like(parameter) * 0.1)
            model.save_pretrained(directory)
            make_tokenizer(directory, end=kind.startswith(ENCODER_DECODERS))
            made[kind] = directory
        return made[kind]

    return make


def auto_class(name):
    """Choose transformers' class for an architecture's name."""
    return AutoModelForSeq2SeqLM if name.startswith(ENCODER_DECODERS) else AutoModelForCausalLM


def load_fresh(directory):
    """Load a model that nothing has touched, as PEFT's users do."""
    return auto_class(directory.name).from_pretrained(directory).eval()


@pytest.fixture(scope="session")
def fresh(model_dir):
    """Give a function: architecture to a copy of its model, which is loaded once, untouched."""
    loaded = {}

    def copied(kind):
        if kind not in loaded:
            loaded[kind] = load_fresh(model_dir(kind))
        return copy.deepcopy(loaded[kind])

    return copied


@pytest.fixture(scope="session")
def make_adapter(tmp_path_factory, fresh):
    """Give a function that lets PEFT write an adapter with random weights, none of them zero."""

    def make(kind, config, *, seed=0, scale=0.5):
        directory = tmp_path_factory.mktemp(f"{kind}-{type(config).__name__}")
        base = fresh(kind)
        torch.manual_seed(seed)
        with oracles.quiet():
            model = peft.get_peft_model(base, config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn_like(parameter) * scale)
        with oracles.quiet():
            model.save_pretrained(directory)
        return directory

    return make


@pytest.fixture(scope="session")
def oracle(model_dir, fresh):
    """Give the oracle, which keeps its models and answers."""
    return oracles.Oracle(
        load=fresh,
        tokenize=lambda kind: PreTrainedTokenizerFast.from_pretrained(model_dir(kind)),
    )


@pytest.fixture(scope="session")
def peft_alone(oracle):
    """Give a function: what the oracle writes for each of some rows."""

    def run(kind, adapter, rows, **options):
        return [oracle.tokens(kind, adapter, row, **options) for row in rows]

    return run


TEXTS = tuple(
    " ".join(f"w{3 + (start * 17 + step * (start + 5)) % 61}" for step in range(length))
    for start, length in enumerate((3, 11, 1, 7, 7, 18, 2, 5, 13, 4))
)


@pytest.fixture(scope="session")
def texts():
    """Ten prompts of 1 to 18 tokens."""
    return TEXTS


@pytest.fixture(scope="module", autouse=True)
def network():
    """Refuse connections, so that no test reaches the hub; give the list of what was tried."""
    tried = []

    def refuse(*arguments, **_options):
        tried.append(arguments)
        raise OSError("these tests have no network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield tried


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Keep tiny matrices on one thread: on shared cores that is many times faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    """Keep fingerprints out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOVETAIL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def gpt2(model_dir):
    """An opened GPT-2 without adapters."""
    with open_base(model_dir("gpt2")) as base:
        yield base


@pytest.fixture(scope="session")
def lora(make_adapter):
    """A LoRA adapter for the GPT-2."""
    return make_adapter("gpt2", lora_config())


@pytest.fixture(scope="session")
def prompt(make_adapter):
    """A soft prompt for the GPT-2."""
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    return make_adapter("gpt2", config)


def lora_config(**options):
    """Configure LoRA for the GPT-2's attention."""
    return peft.LoraConfig(
        **{"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["c_attn"], **options}
    )


@pytest.fixture
def registry(tmp_path):
    """An empty registry."""
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    objects = (tmp_path / "objects").as_uri()
    with Registry.open(url, objects, cache_dir=tmp_path / "cache") as opened:
        yield opened
