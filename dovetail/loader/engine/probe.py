"""Try out whether rows that enter a running batch get what they get alone.

Models differ in how they number positions, mask and cache. What matters can be seen on a few
tokens: two rows of different length, one entering after the other has begun.
"""

from __future__ import annotations

from typing import Any

import torch

from dovetail.loader.engine.running import Runner
from dovetail.loader.engine.task import Task
from dovetail.loader.lane import Lane
from dovetail.loader.options import make_plan

_LENGTHS = (7, 3)
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
    plan = make_plan(call={}, version={}, model=model, pad_token_id=None)
    lane = Lane((), (), None, plan)
    limit = model.config.get_text_config().vocab_size
    tasks = [
        Task(row, tuple((5 + row * 7 + at * 3) % limit for at in range(length)), _STEPS + 1, lane)
        for row, length in enumerate(_LENGTHS)
    ]
    try:
        with torch.inference_mode():
            return _compare(model, runner, tasks)
    except _REFUSALS as error:
        return f"{type(error).__name__}: {error}"


def _compare(model: Any, runner: Runner, tasks: list[Task]) -> str | None:
    first, second = tasks
    runner.reset(2)
    runner.reserve(max(map(runner.length, tasks)))
    seen: list[list[torch.Tensor]] = [[runner.enter([first], [0])[0]], []]
    tokens: list[list[int]] = [[int(seen[0][0].argmax())], []]
    for step in range(_STEPS):
        if step == 1:
            seen[1].append(runner.enter([second], [1])[0])
            tokens[1].append(int(seen[1][0].argmax()))
        rows = [row for row in (0, 1) if tokens[row]]
        runner.compose([tasks[row] for row in rows])
        for row, logits in zip(rows, runner.step([tokens[r][-1] for r in rows]), strict=True):
            seen[row].append(logits)
            tokens[row].append(int(logits.argmax()))
    for task, logits, written in zip(tasks, seen, tokens, strict=True):
        alone = _alone(model, task, written[:-1])
        found = torch.stack(logits)
        scale = alone.abs().max().clamp(min=1)
        off = float((found - alone).abs().max() / scale)
        if not off <= _TOLERANCE.get(model.dtype, 1e-4):
            return f"logits differ by {off:.2g} of their size"
    return None


def _alone(model: Any, task: Task, written: list[int]) -> torch.Tensor:
    """Return the logits of each new token in one pass over a row alone."""
    if model.config.is_encoder_decoder:
        ids = torch.tensor([task.ids], device=model.device)
        decoder = torch.tensor([[task.lane.plan.decoder_start, *written]], device=model.device)
        output = model(input_ids=ids, decoder_input_ids=decoder, use_cache=False)
    else:
        ids = torch.tensor([[*task.ids, *written]], device=model.device)
        output = model(input_ids=ids, use_cache=False)
    logits: torch.Tensor = output.logits[0, -len(written) - 1 :]
    return logits
