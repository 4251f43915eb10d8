"""Choose how a payload is attached, and build it: the only place that knows PEFT's classes."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from dovetail.errors import DovetailError, IncompatibleBaseModel, InvalidPayload, MissingDependency
from dovetail.loader.quiet import peft_quiet
from dovetail.loader.routes import Batching, ModulesRoute, PeftRoute, Route
from dovetail.loader.tree import Snapshot, TreeChange

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dovetail.registry.payload import Payload

_SLOT = "dovetail"
_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PROMPT_KEYS = frozenset({"prompt_embeddings", "prefix_task_cols", "prefix_task_rows"})
# Kinds that were seen to treat each row of a padded batch as they treat it alone. Others need not:
# LILY's router averages over the whole batch.
_BY_ROW = frozenset({
    "ADALORA", "ADAPTION_PROMPT", "BOFT", "C3A", "DELORA", "FOURIERFT", "GRALORA", "HIRA", "HRA",
    "IA3", "LN_TUNING", "LOHA", "LOKR", "LORA", "MISS", "OFT", "OSF", "PSOFT", "PVERA", "RANDLORA",
    "ROAD", "SHIRA", "TINYLORA", "TRAINABLE_TOKENS", "VBLORA", "VERA", "WAVEFT",
})  # fmt: skip
_REFUSED_KINDS = {
    "XLORA": "it is made of other adapters, which are not part of the payload",
    "POLY": "every row would have to name its task",
}
_REFUSED_KEYS = {
    "alora_invocation_tokens": "activated LoRA needs offsets for every row",
    "arrow_config": "Arrow routes between adapters that are not part of the payload",
}
# What PEFT raises for payloads and configurations that it cannot use.
PEFT_ERRORS = (
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def make_route(
    model: PreTrainedModel, payload: Payload, config: Any
) -> tuple[Route, tuple[str, ...]]:
    """Build PEFT's route for a payload, leaving the model's module tree as it is.

    Args:
        model: The frozen model, bare.
        payload: The checked payload.
        config: What `read_config` made of its configuration.

    Returns:
        The route, and notes for whoever reads the outputs.

    Raises:
        InvalidPayload: The installed PEFT cannot attach it, or would leave part of it out.
        IncompatibleBaseModel: It was made for another kind of model.
    """
    peft_model, change = wrap_with_peft(model, payload, config)
    if config.is_prompt_learning:
        return PeftRoute(peft_model, change, int(config.num_virtual_tokens)), (
            f"{payload.peft_type} runs through PEFT, in batches of rows of equal length",
        )
    if not change.replaced:
        raise InvalidPayload(
            f"this {payload.peft_type} adapter does not touch any module of the base model",
            path=str(payload.directory),
        )
    batching = batching_of(payload.peft_type)
    if batching == "any":
        return ModulesRoute(change, batching=batching), ()
    return ModulesRoute(change, batching=batching), (
        f"{payload.peft_type} runs one row at a time: it may mix the rows of a batch",
    )


def batching_of(peft_type: str) -> Batching:
    """Return which rows may share a batch under wrapped layers of this kind."""
    return "any" if peft_type in _BY_ROW else "single"


def read_config(payload: Payload) -> Any:
    """Turn ``adapter_config.json`` into PEFT's configuration, refusing what it does not know.

    Raises:
        InvalidPayload: The installed PEFT does not know the kind or one of the keys.
        MissingDependency: PEFT is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingDependency(
            "attaching an adapter needs peft: pip install 'dovetail[loader]'"
        ) from error
    kind = payload.peft_type
    if kind not in peft.PEFT_TYPE_TO_CONFIG_MAPPING:
        raise InvalidPayload(
            f"PEFT {peft.__version__} does not know the adapter type {kind!r}; update peft",
            peft_type=kind,
        )
    if kind in _REFUSED_KINDS:
        raise InvalidPayload(
            f"a {kind} adapter cannot be attached: {_REFUSED_KINDS[kind]}", peft_type=kind
        )
    config_class = peft.PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    known = {field.name for field in dataclasses.fields(config_class) if field.init}
    unknown = sorted(set(payload.config) - known)
    if unknown:
        raise InvalidPayload(
            f"PEFT {peft.__version__} does not know {_listed(unknown)} in the adapter_config.json "
            f"of this {kind} adapter, and leaving it out could change what the adapter does; "
            "update peft",
            keys=tuple(unknown),
        )
    for key, reason in _REFUSED_KEYS.items():
        if payload.config.get(key):
            raise InvalidPayload(f"an adapter with {key} cannot be attached: {reason}", keys=(key,))
    try:
        config = config_class.from_peft_type(**config_class.check_kwargs(**payload.config))
    except PEFT_ERRORS as error:
        raise InvalidPayload(f"PEFT refuses the adapter_config.json: {error}") from error
    config.inference_mode = True
    return config


def check_task(payload: Payload, model: PreTrainedModel) -> None:
    """Check that an adapter was trained to generate as the model does.

    Raises:
        IncompatibleBaseModel: It was trained for something else.
    """
    task = payload.config.get("task_type")
    if not model.can_generate():
        raise IncompatibleBaseModel(
            f"{type(model).__name__} is an encoder and generates no text: on it go adapters that "
            f"were trained for SEQ_CLS or FEATURE_EXTRACTION, not for {task}",
            task_type=task,
        )
    fits = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    if task is not None and task != fits:
        raise IncompatibleBaseModel(
            f"the adapter was trained for {task}, but {type(model).__name__} generates as {fits}",
            task_type=task,
        )


def check_takes_virtual_tokens(payload: Payload, model: PreTrainedModel) -> None:
    """Check that a model can go on behind tokens that are no words.

    Raises:
        IncompatibleBaseModel: It keeps no keys and values, and begins with words only.
    """
    kind: Any = type(model)
    takes = inspect.signature(kind.forward).parameters
    begins = inspect.signature(kind.prepare_inputs_for_generation).parameters
    if "past_key_values" not in takes and "inputs_embeds" not in begins:
        raise IncompatibleBaseModel(
            f"{kind.__name__} takes no virtual tokens when it generates: transformers gives it "
            "neither a cache of keys and values nor embeddings to begin with; "
            f"{payload.peft_type} does not go on it, LoRA and other kinds on modules do",
            peft_type=payload.peft_type,
        )


def wrap_with_peft(model: PreTrainedModel, payload: Payload, config: Any) -> tuple[Any, TreeChange]:
    """Let PEFT do its work, then take it out of the model again, whatever happened.

    Returns:
        PEFT's model, and what making it did to the module tree.

    Raises:
        InvalidPayload: PEFT cannot attach it, would leave part of it out, or would change weights.
    """
    snapshot = Snapshot(model)
    failure: Exception | None = None
    try:
        with torch.random.fork_rng(devices=[]), peft_quiet():
            peft_model = _inject(model, payload, config)
    except PEFT_ERRORS as error:
        failure = error
    finally:
        change = snapshot.restore()
    if change.weights_changed:
        raise InvalidPayload(
            f"attaching this {payload.peft_type} adapter changes "
            f"{len(change.weights_changed)} weights of the base model itself, "
            f"{_listed(change.weights_changed)} "
            f"(init_lora_weights={payload.config.get('init_lora_weights')!r}); save it as a plain "
            "adapter with PEFT's path_initial_model_for_weight_conversion",
            tensors=change.weights_changed,
        ) from failure
    if isinstance(failure, DovetailError):
        raise failure
    if failure is not None:
        raise InvalidPayload(
            f"PEFT cannot attach this {payload.peft_type} adapter: {failure}",
            path=str(payload.directory),
        ) from failure
    return peft_model, change


def _inject(model: PreTrainedModel, payload: Payload, config: Any) -> Any:
    """Let PEFT change the model, load the payload's tensors, and check that all were used."""
    import peft

    tensors = _without_base_copies(model, payload, config)
    wrapper = peft.MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type, peft.PeftModel)
    peft_model = wrapper(model, config, adapter_name=_SLOT)
    result = peft.set_peft_model_state_dict(peft_model, tensors, adapter_name=_SLOT)
    unused = set(result.unexpected_keys)
    missing = _missing(peft_model, result.missing_keys)
    if config.is_prompt_learning:
        unused -= _PROMPT_KEYS
    if unused:
        names = sorted(_saved_name(key) for key in unused)
        raise InvalidPayload(
            f"PEFT would leave {_listed(names)} of the payload unused: the adapter_config.json "
            "does not describe these tensors, or the base model has no such module",
            tensors=tuple(names),
        )
    if missing:
        raise InvalidPayload(
            f"the payload lacks {_listed(missing)}, which its adapter_config.json calls for",
            tensors=missing,
        )
    peft_model.eval()
    return peft_model


def _missing(peft_model: Any, keys: Iterable[str]) -> tuple[str, ...]:
    """Return what PEFT would have saved and did not find, by its name in a payload.

    A tensor that has several names, of which one was loaded, is there.
    """
    import peft

    saved = peft.get_peft_model_state_dict(
        peft_model, adapter_name=_SLOT, save_embedding_layers=False
    )
    state = {
        key: tensor for key, tensor in peft_model.state_dict().items() if _SLOT in key.split(".")
    }
    absent = state.keys() & set(keys)
    loaded = {tensor.data_ptr() for key, tensor in state.items() if key not in absent}
    names = {_saved_name(key) for key in absent if state[key].data_ptr() not in loaded}
    return tuple(sorted(names & saved.keys()))


def _saved_name(key: str) -> str:
    return ".".join(part for part in key.split(".") if part != _SLOT)


def _without_base_copies(
    model: PreTrainedModel, payload: Payload, config: Any
) -> dict[str, torch.Tensor]:
    """Read the payload's tensors; those that would overwrite the base must equal it."""
    tensors = load_file(Path(payload.directory) / _WEIGHTS, device=str(model.device))
    saved = tuple(getattr(config, "modules_to_save", None) or ())
    state = model.state_dict()
    for name in list(tensors):
        target = name.removeprefix(_PREFIX).replace(".base_layer.", ".")
        if target not in state or _in_modules(target, saved):
            continue
        if not torch.equal(tensors[name].to(state[target].dtype), state[target]):
            raise InvalidPayload(
                f"the payload would overwrite the base model's own {target} with other values, "
                "for every adapter on it; train with modules_to_save, or save without the "
                "embedding layers (save_embedding_layers=False)",
                tensors=(name,),
            )
        del tensors[name]
    return tensors


def _in_modules(target: str, modules: Iterable[str]) -> bool:
    return any(f".{module}." in f".{target}" for module in modules)


def _listed(names: Iterable[str], shown: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(repr(name) for name in names[:shown]) + more
