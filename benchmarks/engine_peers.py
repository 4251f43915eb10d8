"""The job as a user of transformers, PEFT or MLflow would do it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine_shapes import PAD, Shape, load_frozen
from benchmarks.engine_work import Tokens, Work
from dovetail.loader.engine.head import Head


@contextmanager
def contiguous_head(model: Any, *, on: bool) -> Iterator[None]:
    """Spare a peer the slow path of a sliced input to the output layer, for the time of a turn."""
    undo = Head(model).close if on else lambda: None
    try:
        yield
    finally:
        undo()


def run_batch(model: Any, work: Work, rows: Sequence[int], **options: Any) -> Tokens:
    """Run a static batch up to the largest budget in it, and cut each row to its own."""
    width = max(len(work.prompts[row]) for row in rows)
    ids, mask = [], []
    encoder_decoder = model.config.is_encoder_decoder
    for row in rows:
        prompt = list(work.prompts[row])
        gap, ones = [PAD] * (width - len(prompt)), [1] * len(prompt)
        nothing = [0] * len(gap)
        ids.append([*prompt, *gap] if encoder_decoder else [*gap, *prompt])
        mask.append([*ones, *nothing] if encoder_decoder else [*nothing, *ones])
    output = model.generate(
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        do_sample=False,
        max_new_tokens=max(work.budgets[row] for row in rows),
        pad_token_id=PAD,
        **options,
    )
    new = output[:, 1 if encoder_decoder else width :].tolist()
    return {row: tuple(tokens[: work.budgets[row]]) for row, tokens in zip(rows, new, strict=True)}


def run_plain(model: Any, work: Work, batches: Sequence[Sequence[int]], *, fix: bool) -> Tokens:
    """Run static batches on the bare base."""
    done: Tokens = {}
    with contiguous_head(model, on=fix):
        for rows in batches:
            done |= run_batch(model, work, rows)
    return done


def run_mixed(model: Any, work: Work, batches: Sequence[Sequence[int]], *, fix: bool) -> Tokens:
    """Run static batches in which PEFT looks up each row's adapter (``adapter_names``)."""
    done: Tokens = {}
    with contiguous_head(model.get_base_model(), on=fix):
        for rows in batches:
            names = [str(work.owners[row]) for row in rows]
            done |= run_batch(model, work, rows, adapter_names=names)
    return done


def run_switched(model: Any, work: Work, adapters: Sequence[int], *, fix: bool) -> Tokens:
    """Run the rows of one adapter after the other (``set_adapter``)."""
    done: Tokens = {}
    groups = work.groups()
    with contiguous_head(model.get_base_model(), on=fix):
        for adapter in adapters:
            model.set_adapter(str(adapter), inference_mode=True)
            rows = sorted(groups[adapter], key=lambda row: len(work.prompts[row]))
            for at in range(0, len(rows), work.batch_size):
                done |= run_batch(model, work, rows[at : at + work.batch_size])
    return done


def run_alone(
    base: Path,
    adapters: Sequence[Path],
    shape: Shape,
    work: Work,
    rows: Sequence[int],
    *,
    device: str,
) -> Tokens:
    """Run rows through PEFT one at a time, without padding, each on a base of its own."""
    import peft

    done: Tokens = {}
    for row in rows:
        model: Any = load_frozen(base, shape, dtype=torch.float32, device=device)
        model = peft.PeftModel.from_pretrained(model, adapters[work.owners[row]]).eval()
        done |= run_batch(model, work, [row])
    return done


class Pyfunc:
    """An adapter as MLflow serves it: merged into a copy of the base, behind ``predict``.

    A pipeline around the ``PeftModel`` itself cannot be kept: MLflow saves the wrapped layers
    under names that no model has, and what it loads again has new random weights there.

    Args:
        place: An empty directory.
        base: Directory of the base.
        adapter: Directory of the adapter.
        shape: The base's shape.
        work: The job.
        rows: The adapter's rows.
    """

    def __init__(
        self,
        place: Path,
        base: Path,
        adapter: Path,
        shape: Shape,
        work: Work,
        rows: Sequence[int],
    ) -> None:
        import mlflow.pyfunc
        import mlflow.transformers
        import peft
        from transformers import AutoTokenizer, pipeline

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self._work = work
        self._rows = list(rows)
        task = "text2text-generation" if shape.encoder_decoder else "text-generation"
        model: Any = load_frozen(base, shape, dtype=torch.float32, device="cpu")
        model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
        self._tokenizer = AutoTokenizer.from_pretrained(base)
        make: Any = pipeline
        made = make(task, model=model, tokenizer=self._tokenizer)
        config = {
            "max_new_tokens": max(work.budgets[row] for row in rows),
            "do_sample": False,
            "batch_size": work.batch_size,
        }
        mlflow.transformers.save_model(
            made, path=str(place), task=task, pip_requirements=[], model_config=config
        )
        self._model: Any = mlflow.pyfunc.load_model(str(place))

    def run(self) -> Tokens:
        """Predict all rows at once; what comes back is text, with the prompt before it."""
        texts = [self._work.text(row) for row in self._rows]
        done: Tokens = {}
        for row, text, answer in zip(self._rows, texts, self._model.predict(texts), strict=True):
            new = answer.removeprefix(text).replace("w", " w")
            ids = self._tokenizer(new)["input_ids"]
            done[row] = tuple(ids[: self._work.budgets[row]])
        return done
