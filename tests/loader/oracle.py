"""The oracle: PEFT on a model of its own, one row at a time, without padding."""

import warnings
from contextlib import contextmanager
from pathlib import Path

import peft
import torch
from safetensors.torch import load_file

WEIGHTS = "adapter_model.safetensors"
EOS = 1
MERGED = ("LORA", "IA3")


@contextmanager
def quiet():
    """Ignore what PEFT remarks on when its users do what its documentation says."""
    with warnings.catch_warnings():
        for message in (
            "Position ids are not supported for parameter efficient tuning",
            "fan_in_fan_out is set to False but the target module is `Conv1D`",
            "`is_gradient_checkpointing` is deprecated",
            "Setting `save_embedding_layers` to `True`",
            "Model has `tie_word_embeddings=True` and a tied layer is part of the adapter",
        ):
            warnings.filterwarnings("ignore", message=message)
        yield


class Oracle:
    """Says what one row alone gets from PEFT; models and answers are kept.

    An adapter is None for the bare base, a directory, or a tuple of directories that act together:
    LoRA and IA3 are merged into the weights, in this order, and a prompt stands on top.

    Args:
        load: Load a model that nothing has touched, by its name.
        tokenize: Load a tokenizer, by the model's name.
    """

    def __init__(self, *, load, tokenize):
        self._load = load
        self._tokenize = tokenize
        self._models = {}
        self._tokenizers = {}
        self._answers = {}

    def tokens(self, name, adapter, text, **options):
        """Return the new tokens for a text, up to the end of the sequence; greedy by default."""
        key = (name, adapter, text, repr(sorted(options.items())))
        if key not in self._answers:
            self._answers[key] = self._generate(name, adapter, text, options)
        return self._answers[key]

    def in_type(self, dtype):
        """Return an oracle whose base models are in another type."""
        return Oracle(load=lambda name: self._load(name).to(dtype), tokenize=self._tokenize)

    def logits(self, name, adapter, text, *, steps):
        """Return what comes before each of the first new tokens, ``[steps, vocabulary]``.

        Fewer steps where the row ends earlier.
        """
        options = {"max_new_tokens": steps, "output_logits": True, "return_dict_in_generate": True}
        return torch.cat(self._run(name, adapter, text, options).logits)

    def next_logits(self, name, adapter, text, tokens=()):
        """Return the logits ``[vocabulary]`` after a text and some new tokens (decoder-only)."""
        ids = torch.tensor([[*self._ids(name, text), *tokens]])
        with quiet(), torch.no_grad():
            model = self._model(name, adapter)
            return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]

    def _generate(self, name, adapter, text, options):
        ends = options.get("eos_token_id", EOS)
        ends = {ends} if isinstance(ends, int) else set(ends)
        output = self._run(name, adapter, text, {"max_new_tokens": 8, **options})
        encodes = self._model(name, adapter).config.is_encoder_decoder
        start = 1 if encodes else len(self._ids(name, text))
        tokens = output[0, start:].tolist()
        end = next((at for at, token in enumerate(tokens) if token in ends), None)
        return tuple(tokens[:end])

    def _run(self, name, adapter, text, options):
        options = {"do_sample": False, **options}
        ids = torch.tensor([self._ids(name, text)])
        if "stop_strings" in options:
            options["tokenizer"] = _with_probe(self._tokenize(name))
        if _is_multitask(adapter):
            options["task_ids"] = torch.tensor([0])
        with quiet(), torch.no_grad():
            model = self._model(name, adapter)
            return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)

    def _ids(self, name, text):
        return self._tokenizer(name)(text)["input_ids"]

    def _tokenizer(self, name):
        if name not in self._tokenizers:
            self._tokenizers[name] = self._tokenize(name)
        return self._tokenizers[name]

    def _model(self, name, adapter):
        if (name, adapter) not in self._models:
            model = self._load(name)
            together = adapter if isinstance(adapter, tuple) else (adapter,)
            for directory in sorted(together, key=_merge_order):
                if directory is not None:
                    model = peft.PeftModel.from_pretrained(model, directory)
                if len(together) > 1 and _peft_type(directory) in MERGED:
                    model = model.merge_and_unload()
            self._models[name, adapter] = model.eval()
        return self._models[name, adapter]


def _with_probe(tokenizer):
    """Add the word that transformers needs to learn how tokens look within a text."""
    tokenizer.add_tokens(["abcdef"])
    return tokenizer


def _peft_type(directory):
    return peft.PeftConfig.from_pretrained(directory).peft_type.value


def _merge_order(directory):
    kind = None if directory is None else _peft_type(directory)
    return MERGED.index(kind) if kind in MERGED else len(MERGED)


def _is_multitask(adapter):
    together = adapter if isinstance(adapter, tuple) else (adapter,)
    return any(
        directory is not None and "prefix_task_cols" in load_file(Path(directory) / WEIGHTS)
        for directory in together
    )
