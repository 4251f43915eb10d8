"""Loading many adapters of one base, with Dovetail's flavor and with MLflow's transformers flavor.

Both sides save the same adapters, and neither a copy of the base: MLflow's flavor is given the
base's directory (``base_model_path``). That both write the same tokens is seen before.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import Times, interleave
from benchmarks.report import Row

PEER = "mlflow.transformers.load_model"
_TEXT = "w5 w9 w17 w40"
_NEW_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """What was found.

    Attributes:
        rows: The comparisons.
        title: The base's shape.
        agreed: How many adapters wrote the same on either side, and of how many.
    """

    rows: tuple[Row, ...]
    title: str
    agreed: tuple[int, int]


def measure_loading(*, adapters: int, rounds: int, small: bool) -> Loading:
    """Load adapters of a GPT-2 one after the other.

    Args:
        adapters: How many.
        rounds: How many times either side loads all.
        small: Use a small base.
    """
    import torch

    from benchmarks.engine_shapes import SHAPES, write_adapters, write_base

    shape = SHAPES["gpt2"]
    dtype, rank = torch.float32, 4 if small else 16
    with tempfile.TemporaryDirectory(prefix="dovetail-bench-") as name:
        place = Path(name)
        base = write_base(place / "base", shape, small=small, dtype=dtype)
        folders = write_adapters(
            place / "lora", base, shape, kind="attention", count=adapters, rank=rank, dtype=dtype
        )
        ours = [_save_ours(place / f"ours-{at}", folder, base) for at, folder in enumerate(folders)]
        theirs = [
            _save_theirs(place / f"theirs-{at}", folder, base) for at, folder in enumerate(folders)
        ]
        shutil.rmtree(place / "lora")  # what was saved must do without
        pairs = list(zip(ours, theirs, strict=True))
        checked = pairs[:: max(1, adapters // 4)]
        agreed = sum(_write_ours(one) == _write_theirs(other) for one, other in checked)
        rows = tuple(_rows(ours, theirs, rounds))
    title = f"small {shape.title}" if small else shape.title
    return Loading(rows=rows, title=title, agreed=(agreed, len(checked)))


def _rows(ours: list[Path], theirs: list[Path], rounds: int) -> Iterator[Row]:
    import mlflow.transformers

    from dovetail.plugins import mlflow as flavor
    from dovetail.plugins.mlflow.bases import release_bases

    def close() -> None:
        release_bases()
        gc.collect()

    def load_all() -> list[Any]:
        return [flavor.load_model(str(one)) for one in ours]

    def load_each() -> None:
        for one in theirs:  # never two at once: each has a base of its own
            mlflow.transformers.load_model(str(one))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        times = interleave(
            {"ours": load_all, "theirs": load_each}, rounds=rounds, warmup=1, before=close
        )
        each = {
            side: Times(tuple(one / len(ours) for one in taken.seconds))
            for side, taken in times.items()
        }
        what = f"load_model of {len(ours)} adapters of one base, opening the base included"
        yield Row(what=what, ours=times["ours"], peer=PEER, theirs=times["theirs"], at_least=10.0)
        yield Row(what="- of that, one", ours=each["ours"], peer=PEER, theirs=each["theirs"])
        held = flavor.load_model(str(ours[0]))
        again = interleave(
            {
                "ours": lambda: flavor.load_model(str(ours[-1])),
                "theirs": lambda: mlflow.transformers.load_model(str(theirs[-1])),
            },
            rounds=max(3, rounds),
            warmup=1,
        )
        del held
        yield Row(
            what="load_model of one more, the base being open",
            ours=again["ours"],
            peer=PEER,
            theirs=again["theirs"],
        )
        close()


def _save_ours(place: Path, adapter: Path, base: Path) -> Path:
    from dovetail.plugins import mlflow as flavor

    flavor.save_model(str(adapter), str(place), base_model=str(base), pip_requirements=[])
    return place


def _save_theirs(place: Path, adapter: Path, base: Path) -> Path:
    import mlflow.transformers
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made: Any = AutoModelForCausalLM.from_pretrained(base)
    model = peft.PeftModel.from_pretrained(made, str(adapter))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.transformers.save_model(
            {"model": model, "tokenizer": AutoTokenizer.from_pretrained(base)},
            path=str(place),
            task="text-generation",
            base_model_path=str(base),
            pip_requirements=[],
        )
    return place


def _write_ours(place: Path) -> str:
    from dovetail.plugins import mlflow as flavor

    (answer,) = flavor.load_model(str(place)).generate([_TEXT], max_new_tokens=_NEW_TOKENS)
    return str(answer.text).strip()


def _write_theirs(place: Path) -> str:
    import mlflow.transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline: Any = mlflow.transformers.load_model(str(place))
        (answer,) = pipeline(_TEXT, max_new_tokens=_NEW_TOKENS, do_sample=False)
    return str(answer["generated_text"]).removeprefix(_TEXT).strip()
