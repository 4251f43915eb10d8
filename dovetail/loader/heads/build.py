"""Build the models that PEFT wraps: around the base's body, for one payload."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dovetail.errors import InvalidPayload
from dovetail.loader.heads.graft import Graft, graft
from dovetail.registry.layout import live_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dovetail.registry.payload import Payload

Shapes = dict[str, tuple[int, ...]]

_GIVEN_KEYS = frozenset({"PREFIX_TUNING", "CARTRIDGE"})


def build_classifier(model: PreTrainedModel, payload: Payload) -> tuple[Graft, int]:
    """Build the classification model with as many labels as the payload's head has."""
    from transformers import AutoModelForSequenceClassification

    saved = {live_name(name): info.shape for name, info in payload.tensors.items()}
    trial = graft(model, AutoModelForSequenceClassification, num_labels=2)
    missing = sorted(trial.own.keys() - saved.keys())
    if missing:
        inside = f"{trial.model.base_model_prefix}."
        parts = sorted({name.removeprefix(inside).partition(".")[0] for name in missing})
        raise InvalidPayload(
            f"the payload does not hold {', '.join(missing)} of {type(trial.model).__name__}, "
            f"which the base model does not have either; train with modules_to_save={parts}",
            tensors=tuple(missing),
        )
    other = graft(model, AutoModelForSequenceClassification, num_labels=3)
    count = _count_labels(trial.own, other.own, saved)
    return graft(
        model, AutoModelForSequenceClassification, num_labels=count, cache=_gives_keys(payload)
    ), count


def _count_labels(trial: Shapes, other: Shapes, saved: Shapes) -> int:
    """Read the number of labels off the saved head: it is the size that differs between two.

    Raises:
        InvalidPayload: The saved head is not shaped like one.
    """
    for name, shape in trial.items():
        for axis, sizes in enumerate(zip(shape, other[name], strict=True)):
            if sizes[0] != sizes[1]:
                if len(saved[name]) != len(shape):
                    raise InvalidPayload(
                        f"{name} of the payload has shape {saved[name]}; a head's has "
                        f"{len(shape)} sizes, such as {shape} for two labels",
                        tensors=(name,),
                    )
                return saved[name][axis]
    raise InvalidPayload("this base model's head does not depend on the number of labels")


def build_extractor(model: PreTrainedModel, payload: Payload, *, prompts: bool) -> Graft:
    """Build the model without a head that feature extraction is trained on.

    A pooler that the base does not have stays empty: no vector is made of what it says.
    """
    from transformers import AutoModel

    grafted = graft(model, AutoModel, cache=_gives_keys(payload))
    if model.config.is_encoder_decoder:
        if prompts:
            raise InvalidPayload(
                f"a {payload.peft_type} adapter cannot embed with an encoder-decoder model, whose "
                "encoder alone is run; train LoRA for FEATURE_EXTRACTION",
                peft_type=payload.peft_type,
            )
        if not any(".decoder." in name for name in payload.tensors):
            grafted.body._modules["decoder"] = None  # noqa: SLF001 (as the encoder's class has it)
    return grafted


def _gives_keys(payload: Payload) -> bool:
    return payload.peft_type in _GIVEN_KEYS
