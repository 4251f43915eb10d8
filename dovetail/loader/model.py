"""Load a checkpoint's model and tokenizer, frozen and offline."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.errors import (
    BaseModelNotFound,
    IncompatibleBaseModel,
    InvalidInput,
    MissingDependency,
)
from dovetail.loader.quiet import no_progress_bars
from dovetail.registry.checkpoint import find_checkpoint, open_sources
from dovetail.registry.live import check_live_model
from dovetail.registry.statcache import stamps

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dovetail.registry.fingerprint import BaseCheckpoint

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def load_model(
    checkpoint: BaseCheckpoint,
    *,
    device: str,
    dtype: torch.dtype | str | None,
    attn_implementation: str | None,
) -> PreTrainedModel:
    """Load the model with a language-model head, frozen and in evaluation mode.

    An encoder has no such head; it is loaded as the bare encoder, which classifies and embeds. In
    the checkpoint's own type, what was loaded is compared with the manifest tensor by tensor.

    Raises:
        IncompatibleBaseModel: transformers can load it neither as a model that generates text nor
            as a text encoder, or loads something other than what its files say.
    """
    try:
        import torch
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        raise MissingDependency(
            "loading a base model needs torch, transformers and peft: "
            "pip install 'dovetail[loader]'"
        ) from error
    directory = checkpoint.directory
    if directory is None:
        raise BaseModelNotFound(
            f"base model {checkpoint.name!r} is known without a directory to load it from; give "
            "the directory of its checkpoint"
        )
    wanted = _as_dtype(dtype or _DTYPES.get(checkpoint.dtype, "float32"))
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(directory, **local)
        kind, options = _choose_class(config, checkpoint)
        quietly = _heads_left_out() if kind is AutoModel else nullcontext()
        with no_progress_bars(), quietly:
            model: Any = kind.from_pretrained(
                directory,
                dtype=wanted,
                attn_implementation=attn_implementation,
                use_safetensors=any(directory.glob("*.safetensors")),
                **options,
                **local,
            )
    except (ValueError, OSError) as error:
        raise IncompatibleBaseModel(
            f"base model {checkpoint.name!r} ({checkpoint.architecture}) cannot be loaded as a "
            f"model that generates text or as a text encoder: {error}",
            architecture=checkpoint.architecture,
        ) from error
    model.requires_grad_(False)
    model.eval()
    if wanted == _only_dtype(checkpoint):
        _check_loaded(model, checkpoint)
    model.to(torch.device(device))
    # Every call sets max_new_tokens; a max_length beside it only makes transformers warn.
    if model.can_generate():
        model.generation_config.max_length = None
    loaded: PreTrainedModel = model
    return loaded


def _check_loaded(model: Any, checkpoint: BaseCheckpoint) -> None:
    """Compare what was loaded with the files, byte by byte; they with the manifest, if need be."""
    files = find_checkpoint(Path(str(checkpoint.directory)))
    with open_sources(files) as sources:
        check_live_model(model, checkpoint.manifest, files=sources)
    if stamps(files.files) != checkpoint.stamps:  # not the files that the manifest was made from
        check_live_model(model, checkpoint.manifest)


def check_generates(model: PreTrainedModel, name: str) -> None:
    """Refuse to generate with an encoder.

    Args:
        model: The loaded model.
        name: What the base is called.

    Raises:
        InvalidInput: It has no language-model head.
    """
    if not model.can_generate():
        raise InvalidInput(
            f"base model {name!r} ({type(model).__name__}) is an encoder and generates no text; "
            "call classify() with a SEQ_CLS adapter, or embed()",
            architecture=type(model).__name__,
        )


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer beside the weights, or None; without a padding token it uses the end.

    Raises:
        InvalidInput: transformers cannot load it.
    """
    if not any(
        (directory / name).is_file()
        for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    ):
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, OSError, ImportError) as error:
        raise InvalidInput(
            f"the tokenizer in {str(directory)!r} cannot be loaded: {error}",
            directory=str(directory),
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _choose_class(config: Any, checkpoint: BaseCheckpoint) -> tuple[Any, dict[str, Any]]:
    """Return the class of transformers that loads a checkpoint, and options for it.

    Many encoders have a class that makes them write text one token after the other, too; only a
    checkpoint of that class, or one marked as a decoder, is loaded so. A pooler that the checkpoint
    lacks is left out instead of being filled with random numbers.
    """
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.models.auto import modeling_auto as known

    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM, {}
    masked: Any = known.MODEL_FOR_MASKED_LM_MAPPING
    causal: Any = known.MODEL_FOR_CAUSAL_LM_MAPPING
    writes = type(config) in causal and (
        getattr(config, "is_decoder", False)
        or checkpoint.architecture == causal[type(config)].__name__
    )
    if type(config) not in masked or writes:
        return AutoModelForCausalLM, {}
    has_pooler = any("pooler" in entry.name.split(".") for entry in checkpoint.manifest.tensors)
    encoder: Any = known.MODEL_MAPPING[type(config)]
    encoder = encoder[0] if isinstance(encoder, tuple) else encoder
    if not has_pooler and "add_pooling_layer" in signature(encoder).parameters:
        return AutoModel, {"add_pooling_layer": False}
    return AutoModel, {}


@contextmanager
def _heads_left_out() -> Iterator[None]:
    """Ignore the table of tensors that an encoder has no use for, for the time of the block.

    They are of the head that it was trained with. A table that names any other trouble is shown.
    """
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_not_about_heads)
    try:
        yield
    finally:
        logger.removeFilter(_not_about_heads)


def _not_about_heads(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    trouble = any(word in text for word in ("MISSING", "MISMATCH", "CONVERSION"))
    return trouble or "LOAD REPORT" not in text


def _only_dtype(checkpoint: BaseCheckpoint) -> torch.dtype | None:
    """Return the one floating-point type of a checkpoint, or None if it mixes several."""
    found = {entry.dtype for entry in checkpoint.manifest.tensors} & _DTYPES.keys()
    return _as_dtype(_DTYPES[found.pop()]) if len(found) == 1 else None


def _as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    import torch

    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise InvalidInput(
            f"dtype {dtype!r} is no type; use float32, bfloat16 or float16", value=str(dtype)
        )
    return found
