"""Tiny base models and adapters of PEFT's for the tests of the flavor, which take fixtures here."""

import importlib.util
import shutil
import sys
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from dovetail.loader import Row, open_base

TEXTS = ("w3 w4 w5", "w9 w12 w7 w30 w8 w11 w6", "w21")
NEW = 6

# PEFT asks for what transformers has since renamed; the rest is what PEFT says of its own defaults.
IGNORED = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),  # by pandas
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),
]


def _load(path):
    """Load the module of the loader's fixtures; under importlib mode it cannot be imported."""
    name = f"dovetail_tests_flavor_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


_loader = _load(Path(__file__).parents[2] / "loader" / "conftest.py")
load_fresh, quiet, make_tokenizer = (
    _loader.load_fresh,
    _loader.oracles.quiet,
    _loader.make_tokenizer,
)

_TARGETS = {"gpt2": ["c_attn"], "t5": ["q", "v"]}
_TASKS = {"gpt2": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM"}
KINDS = ("lora", "prompt", "prefix", "p-tuning")


def config_of(base, kind):
    """Configure an adapter of a kind for a base."""
    common = {"task_type": _TASKS[base]}
    match kind:
        case "lora":
            return peft.LoraConfig(r=4, target_modules=_TARGETS[base], **common)
        case "prompt":
            return peft.PromptTuningConfig(num_virtual_tokens=5, **common)
        case "prefix":
            return peft.PrefixTuningConfig(num_virtual_tokens=4, **common)
        case "p-tuning":
            return peft.PromptEncoderConfig(num_virtual_tokens=5, encoder_hidden_size=16, **common)
    raise AssertionError(kind)


def train(directory, config, *, seed=0):
    """Make a ``PeftModel`` on a base with random weights, none of them zero."""
    torch.manual_seed(seed)
    with quiet():
        model = peft.get_peft_model(load_fresh(directory), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model.eval()


def change_weights(directory):
    """Change one value of a base model's weights."""
    file = Path(directory) / "model.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    tensors[name].view(-1)[0] += 1.0
    save_file(tensors, file, metadata={"format": "pt"})


def expected(base, adapter, texts, **options):
    """Return what the loader writes for texts."""
    with open_base(base) as opened:
        opened.attach_directory(adapter, name="adapter")
        rows = [Row(text, "adapter") for text in texts]
        found = list(opened.generate(rows, **{"max_new_tokens": NEW, **options}))
    assert all(generation.error is None for generation in found)
    return [generation.text for generation in found]


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Give a function: architecture to the directory of a random model; not to be changed."""
    made = {}

    def make(kind):
        if kind not in made:
            directory = made[kind] = tmp_path_factory.mktemp("base") / kind
            torch.manual_seed(7)
            model = _loader.auto_class(kind).from_config(_loader._config(kind))
            model.save_pretrained(directory)
            make_tokenizer(directory, end=kind == "t5")
        return made[kind]

    return make


@pytest.fixture(scope="session")
def adapters(tmp_path_factory, bases):
    """Give a function: base and kind to the directory of an adapter; not to be changed."""
    made = {}

    def make(base="gpt2", kind="lora", *, seed=0):
        key = (base, kind, seed)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(f"{base}-{kind}")
            with quiet():
                train(bases(base), config_of(base, kind), seed=seed).save_pretrained(made[key])
        return made[key]

    return make


@pytest.fixture
def moved(bases, tmp_path):
    """Give a function: a copy of a base at another place, which a test may change."""
    return lambda kind="gpt2": Path(shutil.copytree(bases(kind), tmp_path / "moved" / kind))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Keep tiny matrices on one thread: on shared cores that is many times faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
