"""Encoders, adapters with heads that PEFT wrote, and PEFT's own answers for one row alone.

For the tests of heads, which take their fixtures from here.
"""

import importlib.util
import logging
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import peft
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from dovetail.loader import open_base
from dovetail.loader.heads.classify import Classifier
from dovetail.loader.heads.embed import Embedder
from dovetail.loader.heads.head import make_head
from dovetail.loader.rows import AttachedAdapter
from dovetail.registry.payload import read_payload

_SPEC = importlib.util.spec_from_file_location(
    "dovetail_tests_loader_heads_oracle", Path(__file__).with_name("oracle.py")
)
_ORACLE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_ORACLE)

CLASSES = {"task_type": "SEQ_CLS"}
FEATURES = {"task_type": "FEATURE_EXTRACTION"}
WHOLE_HEAD = {"modules_to_save": ["classification_head"]}
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    "initializer_range": 0.4,
    "pad_token_id": 0,
}
ENCODERS = {
    "bert": (AutoModelForPreTraining, BertConfig(**SIZES)),  # with a pooler
    "bert-masked": (AutoModelForMaskedLM, BertConfig(**SIZES)),  # without one
    "roberta": (AutoModelForMaskedLM, RobertaConfig(**SIZES)),  # counts positions from padding on
}


def make_encoder(name, directory):
    """Save an encoder with random weights and a tokenizer that puts tokens around each text."""
    auto_class, config = ENCODERS[name]
    torch.manual_seed(7)
    auto_class.from_config(config).save_pretrained(directory)
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, 64)}}
    special = {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>", "unk_token": "w63"}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory)


def make_head_adapter(base, directory, config, *, labels=3, seed=0, scale=0.3):
    """Let PEFT write an adapter with random weights, its head included."""
    torch.manual_seed(seed)
    with _ORACLE.quiet():
        model = peft.get_peft_model(fresh(base, config.task_type, labels), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * scale)
    with _ORACLE.quiet():
        model.save_pretrained(directory)
    return directory


def fresh(base, task, labels=3):
    """Load a model with a new head of its own, as PEFT's users do."""
    with _no_report():
        if task == "SEQ_CLS":
            return AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
        return AutoModel.from_pretrained(base)


def logits_alone(base, adapter, rows, *, labels=3):
    """Return ``[rows, labels]``: what PEFT says of each row by itself."""
    with _ORACLE.quiet(), torch.no_grad():
        model = _attached(base, adapter, "SEQ_CLS", labels)
        return torch.cat([model(**_encoded(base, row)).logits for row in rows])


def hidden_alone(base, adapter, rows):
    """Return the last hidden states ``[tokens, hidden size]`` of each row by itself."""
    with _ORACLE.quiet(), torch.no_grad():
        model = fresh(base, None).eval()
        if adapter is not None:
            model = _attached(base, adapter, "FEATURE_EXTRACTION", 0)
        found = []
        for row in rows:
            inputs = _encoded(base, row)
            encodes = model.config.is_encoder_decoder
            output = (model.get_encoder() if encodes else model)(**inputs)
            found.append(output.last_hidden_state[0, -inputs["input_ids"].shape[1] :])
        return found


def _attached(base, adapter, task, labels):
    return peft.PeftModel.from_pretrained(fresh(base, task, labels), adapter).eval()


def _encoded(base, row):
    encoded = AutoTokenizer.from_pretrained(base)(row, return_tensors="pt")
    return {key: encoded[key] for key in ("input_ids", "attention_mask")}


@contextmanager
def _no_report():
    """Keep transformers from listing the weights of the head that it made up."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def lora(*targets, **options):
    """Configure LoRA."""
    return peft.LoraConfig(r=4, target_modules=list(targets), **{**CLASSES, **options})


@pytest.fixture(scope="module")
def directory(model_dir, tmp_path_factory):
    """Give a function: name to the directory of a base model, encoders included."""
    made = {}

    def find(name):
        if name not in ENCODERS:
            return model_dir(name)
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            make_encoder(name, made[name])
        return made[name]

    return find


@pytest.fixture(scope="module")
def opened(directory):
    """Give a function: name to an opened base."""
    made = {}
    with ExitStack() as stack:

        def find(name):
            if name not in made:
                made[name] = stack.enter_context(open_base(directory(name)))
            return made[name]

        yield find


@pytest.fixture(scope="module")
def adapter(directory, tmp_path_factory):
    """Give a function that lets PEFT write an adapter with a head for a base model."""
    made = {}

    def make(name, config, **options):
        key = (name, repr(config), repr(options))
        if key not in made:
            place = tmp_path_factory.mktemp("adapter")
            made[key] = make_head_adapter(directory(name), place, config, **options)
        return made[key]

    return make


class Attached:
    """A base with adapters on it, as far as heads are concerned."""

    def __init__(self, base, **directories):
        self.base = base
        self.found = {}
        for name, path in directories.items():
            payload = read_payload(path)
            head = make_head(base.model, payload)
            attached = AttachedAdapter(
                reference=name,
                requested=name,
                payload_digest=payload.digest,
                path=path,
                peft_type=payload.peft_type,
                task=head.task,
                route=head.route,
                virtual_tokens=head.virtual_tokens,
                labels=head.labels,
            )
            self.found[name] = (attached, head)

    def classify(self, rows, **options):
        """Return the classification of each row."""
        return list(Classifier(**self._parts(), **options).run(rows))

    def embed(self, rows, **options):
        """Return the vector of each row."""
        return list(Embedder(**self._parts(), **options).run(rows))

    def _parts(self):
        return {
            "model": self.base.model,
            "tokenizer": self.base.tokenizer,
            "find": self.found.__getitem__,
            "lock": threading.RLock(),
        }
