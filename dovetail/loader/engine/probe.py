"""Try out whether rows that enter a running batch get what they get alone.

Models differ in how they number positions, mask and cache. What matters can be seen on a few
tokens: three rows of different length, two of them with virtual tokens, which enter together after
the first has begun. The virtual tokens stand apart from their input in a pack and behind padding,
so a model that counts columns is noticed.
"""

from __future__ import annotations

from typing import Any

import torch

from dovetail.loader.engine.running import Runner
from dovetail.loader.engine.task import Task
from dovetail.loader.engine.whole import run_whole
from dovetail.loader.lane import Lane
from dovetail.loader.native.adapter import NativeAdapter
from dovetail.loader.native.hooks import ModuleHooks
from dovetail.loader.options import Plan, make_plan
from dovetail.loader.quiet import generation_quiet
from dovetail.loader.routes import Batching

# Virtual tokens and tokens of each row.
_LENGTHS = ((0, 7), (4, 3), (4, 6))
_STEPS = 3
# What models raise that take no such cache or mask.
_REFUSALS = (
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def behaves(model: Any, runner: Runner) -> str | None:
    """Return None if a runner is right for a model, else what is wrong."""
    try:
        with torch.inference_mode():
            return _compare(model, runner, _tasks(model))
    except _REFUSALS as error:
        return f"{type(error).__name__}: {error}"


def batching(model: Any, hooks: ModuleHooks) -> Batching:
    """Say which rows may share a batch of transformers' own loop."""
    rows = _tasks(model)
    twin = Task(len(rows), rows[0].ids[::-1], rows[0].limit, rows[0].lane)
    candidates: tuple[tuple[Batching, list[Task]], ...] = (
        ("any", [*rows, twin]),
        ("equal", [rows[0], twin]),
    )
    for found, tasks in candidates:
        try:
            with torch.inference_mode():
                together = _looped(model, tasks, hooks=hooks)
                alone = [_looped(model, [task], hooks=hooks) for task in tasks]
        except _REFUSALS:
            continue
        if _off(together, torch.cat(alone)) <= _TOLERANCE.get(model.dtype, 1e-4):
            return found
    return "single"


def _looped(model: Any, tasks: list[Task], *, hooks: ModuleHooks) -> torch.Tensor:
    """Return what transformers' loop computes for rows, ``[rows, steps * vocabulary]``.

    Every row is made to write the same, so that all can be compared to the end.
    """
    seen: list[torch.Tensor] = []

    def write(_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen.append(scores.nan_to_num(neginf=0))
        forced = torch.full_like(scores, -torch.inf)
        forced[:, len(seen) % scores.shape[1]] = 0
        return forced

    options = {
        **tasks[0].lane.plan.options,
        "pad_token_id": 0,
        "eos_token_id": None,
        "max_new_tokens": _STEPS,
        "logits_processor": [write],
    }
    with generation_quiet():
        run_whole(model, tasks, options, hooks=hooks)
    return torch.cat(seen, dim=1)


def _tasks(model: Any) -> list[Task]:
    plan = make_plan(call={}, version={}, model=model, pad_token_id=None)
    limit = model.config.get_text_config().vocab_size
    found = []
    for row, (virtual, length) in enumerate(_LENGTHS):
        ids = tuple((5 + row * 7 + at * 3) % limit for at in range(virtual + length))
        found.append(Task(row, ids[virtual:], _STEPS + 1, _lane(model, ids[:virtual], plan)))
    return found


def _lane(model: Any, virtual: tuple[int, ...], plan: Plan) -> Lane:
    """Make the lane of a soft prompt that says what some tokens say; of none without any."""
    if not virtual:
        return Lane((), (), None, plan)
    prompt = _embed(model, virtual)[0]
    digest = f"probe:{virtual}"
    adapter = NativeAdapter(
        digest=digest, kind="prompt", prompt=prompt, virtual_tokens=len(virtual), size=0
    )
    return Lane((), (adapter,), None, plan)


def _embed(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    part = model.get_encoder() if model.config.is_encoder_decoder else model
    embedded: torch.Tensor = part.get_input_embeddings()(torch.tensor([ids], device=model.device))
    return embedded


def _compare(model: Any, runner: Runner, tasks: list[Task]) -> str | None:
    first, *later = tasks
    runner.reset(len(tasks))
    runner.reserve(max(map(sum, _LENGTHS)) + _STEPS + 2)
    seen: list[list[torch.Tensor]] = [[runner.enter([first], [0])[0]], *([] for _ in later)]
    tokens: list[list[int]] = [[int(seen[0][0].argmax())], *([] for _ in later)]
    for step in range(_STEPS):
        if step == 1:
            places = list(range(1, len(tasks)))
            for row, logits in zip(places, runner.enter(later, places), strict=True):
                seen[row].append(logits)
                tokens[row].append(int(logits.argmax()))
        rows = [row for row in range(len(tasks)) if tokens[row]]
        runner.compose([tasks[row] for row in rows])
        for row, logits in zip(rows, runner.step([tokens[r][-1] for r in rows]), strict=True):
            seen[row].append(logits)
            tokens[row].append(int(logits.argmax()))
    for task, logits, written in zip(tasks, seen, tokens, strict=True):
        off = _off(torch.stack(logits), _alone(model, task, written[:-1]))
        if not off <= _TOLERANCE.get(model.dtype, 1e-4):
            return f"logits differ by {off:.2g} of their size"
    return None


def _off(found: torch.Tensor, alone: torch.Tensor) -> float:
    """Return the largest difference, as a part of the largest value."""
    return float((found - alone).abs().max() / alone.abs().max().clamp(min=1))


def _alone(model: Any, task: Task, written: list[int]) -> torch.Tensor:
    """Return the logits of each new token in one pass over a row alone."""
    two_parts = model.config.is_encoder_decoder
    ids = task.ids if two_parts else (*task.ids, *written)
    inputs: dict[str, Any] = {"input_ids": torch.tensor([ids], device=model.device)}
    if task.lane.soft and task.lane.soft.prompt is not None:
        embedded = torch.cat([task.lane.soft.prompt[None], _embed(model, ids)], dim=1)
        inputs = {"inputs_embeds": embedded}
    if two_parts:
        start = [task.lane.plan.decoder_start, *written]
        inputs["decoder_input_ids"] = torch.tensor([start], device=model.device)
    output = model(**inputs, use_cache=False)
    logits: torch.Tensor = output.logits[0, -len(written) - 1 :]
    return logits
