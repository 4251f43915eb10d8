"""Check an adapter's shapes against a base model's manifest, before anything is loaded.

The fingerprint says whether an adapter's base is *the* base. This says whether the adapter can
belong to it at all, and which leaf does not fit. Where a checkpoint stores a module in a layout
that is not understood (packed quantised weights, fused experts), only its existence is checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from dovetail.errors import IncompatibleBaseModel
from dovetail.registry.baseview import FLOATS, OUTPUTS, BaseView
from dovetail.registry.folder import WEIGHTS_FILE
from dovetail.registry.layout import LoraModule, base_name, live_name, lora_modules
from dovetail.registry.manifest import Manifest, TensorEntry
from dovetail.registry.payload import Payload
from dovetail.registry.tensorfile import TensorInfo, read_header

# Families whose checkpoints store linear layers as (in, out), in transformers' Conv1D.
_CONV1D_FAMILIES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"})
_KEYS = (".k_proj.weight", ".key.weight", ".k.weight", ".k_lin.weight")
_MATRIX = 2
_GENERATING = (None, "CAUSAL_LM", "SEQ_2_SEQ_LM")

Problem = tuple[str, str]


def check_against_base(
    payload: Payload,
    manifest: Manifest,
    *,
    hidden_size: int | None = None,
    model_type: str | None = None,
) -> None:
    """Check that an adapter's tensors have places, of their shapes, in a base model.

    Args:
        payload: The adapter.
        manifest: The base model's tensors.
        hidden_size: The base model's width, used where its embedding is not recognised.
        model_type: The base model's family, such as ``gpt2``.

    Raises:
        IncompatibleBaseModel: Something does not fit. ``leaf`` is the first such module or tensor
            and ``problems`` has a sentence for each.
    """
    base = BaseView(manifest, hidden_size, model_type)
    check = _CHECKS.get(payload.peft_type)
    problems = list(check(payload, base)) if check is not None else []
    problems += _overwrites(payload, base)
    problems += _token_rows(payload, base)
    if not problems:
        return
    leaf, first = problems[0]
    more = f" (and {len(problems) - 1:,} more)" if len(problems) > 1 else ""
    raise IncompatibleBaseModel(
        f"the adapter does not fit this base model: {first}{more}. "
        "Name the base model that it was trained on",
        leaf=leaf,
        problems=tuple(sentence for _, sentence in problems),
    )


def _lora(payload: Payload, base: BaseView) -> Iterator[Problem]:
    for module in lora_modules(payload.tensors).values():
        name = base_name(module.name)
        if name == module.name or "experts" not in name:
            yield from _lora_module(module, name, payload, base)


def _lora_module(
    module: LoraModule, name: str, payload: Payload, base: BaseView
) -> Iterator[Problem]:
    weight = base.weight(name)
    if weight is None:
        if not base.holds(name) and not _of_head(name, payload):
            yield name, f"{name} has a LoRA, but the base has no such module"
        return
    if weight.dtype not in FLOATS:
        return
    if "embedding_A" in module.parts:
        yield from _lora_embedding(name, module, weight)
    elif len(weight.shape) == _MATRIX and "A" in module.parts:
        yield from _lora_linear(name, module, weight, payload, base)
    elif len(weight.shape) > _MATRIX and "B" in module.parts:
        out = module.parts["B"].shape[0]
        if out != weight.shape[0]:
            yield name, f"{name} has {weight.shape[0]} channels in the base, its LoRA {out}"


def _lora_linear(
    name: str, module: LoraModule, weight: TensorEntry, payload: Payload, base: BaseView
) -> Iterator[Problem]:
    a, b = module.parts["A"], module.parts["B"]
    if payload.config.get("use_bdlora") or payload.config.get("use_qalora"):
        return
    sizes = _linear_sizes(weight, payload, base)
    have = (a.shape[-1], b.shape[0])
    if have not in sizes:
        yield (
            name,
            (
                f"{name} takes {have[0]} and gives {have[1]} values in the adapter, but "
                f"{sizes[-1][0]} and {sizes[-1][1]} in the base ({_cause(name, have, sizes[-1])})"
            ),
        )
    magnitude = module.parts.get("magnitude_vector")
    if magnitude is not None and magnitude.elements != b.shape[0]:
        yield name, f"{name} has {magnitude.elements} DoRA magnitudes for {b.shape[0]} outputs"


def _lora_embedding(name: str, module: LoraModule, weight: TensorEntry) -> Iterator[Problem]:
    have = (module.parts["embedding_A"].shape[1], module.parts["embedding_B"].shape[0])
    if have != weight.shape:
        cause = "another vocabulary" if have[1] == weight.shape[-1] else "another width"
        yield (
            name,
            (
                f"{name} embeds {have[0]} tokens in {have[1]} values in the adapter, but "
                f"{weight.shape[0]} in {weight.shape[-1]} in the base ({cause})"
            ),
        )


def _linear_sizes(weight: TensorEntry, payload: Payload, base: BaseView) -> list[tuple[int, int]]:
    """Return the (in, out) sizes that a weight's layout allows, the likeliest last."""
    linear, conv1d = (weight.shape[1], weight.shape[0]), (weight.shape[0], weight.shape[1])
    if base.model_type in _CONV1D_FAMILIES:
        is_output = weight is base.embedding or weight.name.startswith("lm_head")
        return [conv1d, linear] if is_output else [linear, conv1d]
    # PEFT keeps fan_in_fan_out as the last module left it, so it proves nothing when false.
    if payload.config.get("fan_in_fan_out") is True and base.model_type is None:
        return [linear, conv1d]
    return [linear]


def _cause(name: str, have: tuple[int, int], want: tuple[int, int]) -> str:
    if name.rpartition(".")[2] in OUTPUTS and have[0] == want[0]:
        return "another vocabulary"
    return "another width" if have[0] != want[0] else "another number of outputs"


def _soft_prompt(payload: Payload, base: BaseView) -> Iterator[Problem]:
    width = payload.tensors["prompt_embeddings"].shape[1]
    if base.width is not None and width != base.width:
        yield (
            "prompt_embeddings",
            (
                f"prompt_embeddings has width {width}, but the base embeds tokens in {base.width} "
                "values (another width)"
            ),
        )


def _prefix(payload: Payload, base: BaseView) -> Iterator[Problem]:
    width, layers = payload.config.get("token_dim"), payload.config.get("num_layers")
    widths = {
        entry.shape[0]
        for entry in base.manifest.tensors
        if entry.name.endswith(_KEYS) and len(entry.shape) == _MATRIX and entry.dtype in FLOATS
    }
    if not widths and base.hidden_size is not None and isinstance(width, int):
        # Keys in one matrix with the queries may be narrower than the model, never wider.
        widths = {min(width, base.hidden_size)}
    if isinstance(width, int) and widths and width not in widths:
        shown = " or ".join(map(str, sorted(widths)))
        yield (
            "prompt_embeddings",
            (
                f"prompt_embeddings has keys of width {width}, but the base's are {shown} wide "
                "(another width)"
            ),
        )
    counts = base.layer_counts
    # One layer more in the checkpoint is a head that predicts further tokens.
    if isinstance(layers, int) and counts and not {layers, layers + 1} & counts:
        shown = " or ".join(map(str, sorted(counts)))
        yield (
            "prompt_embeddings",
            (
                f"prompt_embeddings is for {layers} layers, but the base has {shown} "
                "(another architecture)"
            ),
        )


def _ia3(payload: Payload, base: BaseView) -> Iterator[Problem]:
    for info in payload.tensors.values():
        if not info.name.endswith(".ia3_l"):
            continue
        name = base_name(live_name(info.name.removesuffix(".ia3_l")))
        weight = base.weight(name)
        if weight is None:
            if not base.holds(name) and not _of_head(name, payload):
                yield name, f"{name} has an IA3 vector, but the base has no such module"
        elif len(weight.shape) == _MATRIX and weight.dtype in FLOATS:
            sizes = _linear_sizes(weight, payload, base)
            position = 0 if info.shape[0] == 1 else 1
            if info.elements not in {size[position] for size in sizes}:
                want = sizes[-1][position]
                yield (
                    name,
                    (
                        f"{name} has an IA3 vector of {info.elements} values, but {want} values "
                        f"{'come in' if position == 0 else 'go out'} in the base (another width)"
                    ),
                )


def _overwrites(payload: Payload, base: BaseView) -> list[Problem]:
    """Find tensors that loading would write over the base's own, with other content."""
    copies = {}
    for info in payload.tensors.values():
        plain = base_name(live_name(info.name))
        entry = base.find(plain)
        if entry is None and plain.endswith(".weight"):
            entry = base.weight(plain.removesuffix(".weight"))
        if entry is not None and not _saved_whole(plain, payload):
            copies[info.name] = (plain, info, entry)
    if not copies:
        return []
    problems = []
    with read_header(payload.directory / WEIGHTS_FILE) as weights:
        for name, (plain, info, entry) in copies.items():
            with weights.raw(name) as view:
                digest = f"sha256:{hashlib.sha256(view).hexdigest()}"
            if (info.dtype, info.shape, digest) != (entry.dtype, entry.shape, entry.sha256):
                problems.append((plain, _overwriting(plain, info, entry)))
    return problems


def _overwriting(plain: str, info: TensorInfo, entry: TensorEntry) -> str:
    if info.shape == entry.shape:
        return (
            f"it holds its own {plain}, which differs from the base's and would overwrite it. Save "
            "it with save_embedding_layers=False, or train the module through modules_to_save"
        )
    return (
        f"it holds its own {plain} of shape {info.shape}, where the base has {entry.shape} "
        "(another vocabulary: save the base after resizing its embeddings)"
    )


def _saved_whole(plain: str, payload: Payload) -> bool:
    """Tell whether PEFT keeps this tensor beside the base's, for one of modules_to_save."""
    saved = payload.config.get("modules_to_save")
    if not isinstance(saved, list):
        return False
    parts = plain.split(".")
    modules = (".".join(parts[:count]) for count in range(1, len(parts)))
    return any(module.endswith(str(name)) for module in modules for name in saved)


def _of_head(name: str, payload: Payload) -> bool:
    """Tell whether a module belongs to a head, which the base need not have.

    A head is saved whole with the adapter. Only the pooler need not be, where the adapter was
    trained on hidden states: they do not depend on it.
    """
    task = payload.config.get("task_type")
    if task in _GENERATING:
        return False
    pools = task == "FEATURE_EXTRACTION" and "pooler" in name.split(".")
    return pools or _saved_whole(f"{name}.weight", payload)


def _token_rows(payload: Payload, base: BaseView) -> list[Problem]:
    width = base.width
    return [
        (
            info.name,
            (
                f"{live_name(info.name)} has width {info.shape[-1]}, but the base embeds tokens in "
                f"{width} values (another width)"
            ),
        )
        for info in payload.tensors.values()
        if info.name.endswith("trainable_tokens_delta")
        and width is not None
        and info.shape[-1] != width
    ]


_CHECKS: dict[str, Callable[[Payload, BaseView], Iterator[Problem]]] = {
    "LORA": _lora,
    "IA3": _ia3,
    "PROMPT_TUNING": _soft_prompt,
    "P_TUNING": _soft_prompt,
    "MULTITASK_PROMPT_TUNING": _soft_prompt,
    "PREFIX_TUNING": _prefix,
}
