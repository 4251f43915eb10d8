"""Load a checkpoint's model and tokenizer, frozen and offline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail.errors import IncompatibleBaseModel, InvalidInput, MissingDependency
from dovetail.loader.quiet import no_progress_bars
from dovetail.registry.live import check_live_model

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

    In the checkpoint's own type, what was loaded is compared with the manifest tensor by tensor.

    Raises:
        IncompatibleBaseModel: transformers cannot load it as a model that generates text, or
            loads something other than what its files say.
    """
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    except ImportError as error:
        raise MissingDependency(
            "loading a base model needs torch, transformers and peft: "
            "pip install 'dovetail[loader]'"
        ) from error
    directory = Path(checkpoint.directory)
    wanted = _as_dtype(dtype or _DTYPES.get(checkpoint.dtype, "float32"))
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with no_progress_bars():
            config = AutoConfig.from_pretrained(directory, **local)
            kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            model: Any = kind.from_pretrained(
                directory,
                dtype=wanted,
                attn_implementation=attn_implementation,
                use_safetensors=any(directory.glob("*.safetensors")),
                **local,
            )
    except (ValueError, OSError) as error:
        raise IncompatibleBaseModel(
            f"base model {checkpoint.name!r} ({checkpoint.architecture}) cannot be loaded as a "
            f"model that generates text: {error}",
            architecture=checkpoint.architecture,
        ) from error
    model.requires_grad_(False)
    model.eval()
    if wanted == _only_dtype(checkpoint):
        check_live_model(model, checkpoint.manifest)
    model.to(torch.device(device))
    # Every call sets max_new_tokens; a max_length beside it only makes transformers warn.
    model.generation_config.max_length = None
    loaded: PreTrainedModel = model
    return loaded


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


def keep_head_contiguous(model: Any) -> Callable[[], None]:
    """Give the output embedding contiguous input; return how to undo it.

    transformers hands over a slice of the hidden states. With frozen weights the matrix product of
    a slice takes a path that is many times slower on CPUs, most of all in bfloat16.
    """
    head = model.get_output_embeddings()
    if head is None:
        return lambda: None

    def contiguous(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].contiguous(), *inputs[1:])

    handle = head.register_forward_pre_hook(contiguous)

    def undo() -> None:
        handle.remove()

    return undo


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
