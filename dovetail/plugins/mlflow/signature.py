"""The signature and the input example of a saved model.

The default signature says what comes out and which ``params`` are taken. It names no inputs, so
that texts can come as a table with named columns and an ``adapter`` column as well as in a plain
list: where a signature names columns, MLflow refuses lists; where it has one without a name, MLflow
drops all others. The columns are checked by the model itself. A signature that is inferred from an
input example of the caller's does name them, and MLflow then enforces them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mlflow.models import ModelSignature, infer_signature
from mlflow.models.utils import _contains_params
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import ColSpec, TensorSpec

from dovetail.registry.template import InputTemplate

if TYPE_CHECKING:
    from dovetail.loader.rows import Verb

ADAPTER_COLUMN = "adapter"
TEXT_COLUMN = "text"

GENERATION_PARAMS = {
    "max_new_tokens": DataType.long,
    "do_sample": DataType.boolean,
    "temperature": DataType.double,
    "top_k": DataType.long,
    "top_p": DataType.double,
    "num_beams": DataType.long,
    "seed": DataType.long,
}
COMMON_PARAMS = {"batch_size": DataType.long}
HEAD_PARAMS = {
    "classify": {"problem_type": DataType.string},
    "embed": {"pooling": DataType.string},
}

_VECTORS = Schema([TensorSpec(np.dtype("float32"), (-1, -1))])
_LABELS = Schema([ColSpec(DataType.string, "label"), ColSpec(DataType.double, "score")])
_TEXTS = Schema([ColSpec(DataType.string)])
_OUTPUTS: Mapping[str, Schema] = {"generate": _TEXTS, "classify": _LABELS, "embed": _VECTORS}


def make_signature(verb: Verb, example: Any = None) -> ModelSignature:
    """Return the signature of a model; nothing is predicted for it.

    Every param is None by default: what a version was registered with, or else what the base model
    does by itself.

    Args:
        verb: What the model's adapter does.
        example: Input example of the caller's, with params or without; None for the default.
    """
    given: Mapping[str, Any] = {}
    if _contains_params(example):
        example, given = example
    inputs = None if example is None else _with_adapter(infer_signature(example).inputs)
    return ModelSignature(inputs, _OUTPUTS[verb], _params(verb, given))


def make_example(template: InputTemplate | None) -> pd.DataFrame:
    """Return an input example of one row, which shows the columns: a place for each text."""
    fields = (TEXT_COLUMN,) if template is None else template.fields
    return pd.DataFrame([{field: f"<{field}>" for field in fields}])


def _params(verb: Verb, given: Mapping[str, Any]) -> ParamSchema:
    known = {**HEAD_PARAMS.get(verb, GENERATION_PARAMS), **COMMON_PARAMS}
    specs = [ParamSpec(name, kind, given.get(name)) for name, kind in known.items()]
    others = {name: value for name, value in given.items() if name not in known}
    if others:
        specs += infer_signature(params=others).params.params
    return ParamSchema(specs)


def _with_adapter(inputs: Schema) -> Schema:
    """Let tables with named text columns have an adapter column, too."""
    if inputs.is_tensor_spec() or not inputs.has_input_names():
        return inputs
    if ADAPTER_COLUMN not in inputs.input_names():
        optional = ColSpec(DataType.string, ADAPTER_COLUMN, required=False)
        return Schema([*inputs.inputs, optional])
    columns = [
        ColSpec(column.type, column.name, required=False)
        if column.name == ADAPTER_COLUMN
        else column
        for column in inputs.inputs
    ]
    return Schema(columns)
