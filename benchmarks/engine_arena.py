"""The models of one cell of the table, and the contestants that run on them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from benchmarks.engine_ours import Ours
from benchmarks.engine_peak import skinny_peak, square_peak
from benchmarks.engine_peers import Pyfunc, run_alone, run_mixed, run_plain, run_switched
from benchmarks.engine_shapes import Shape, load_frozen, load_peft, write_adapters, write_base
from benchmarks.engine_turns import Contestant, say
from benchmarks.engine_where import limits, measure_floor, measure_where
from benchmarks.engine_work import Tokens, Work, make_work, useful_flops

_ALONE = 4
_NO_PIPELINE = (AttributeError, ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured.

    Attributes:
        rows: Rows of the job.
        adapters: Adapters that take turns.
        rank: Of the LoRAs.
        batch_size: Rows that run at once.
        rounds: Turns of transformers.
        own_rounds: Turns of our engine.
        peft_rounds: Turns of PEFT.
        peer_rows: Rows of a turn of a peer with static batches; other ones in each turn.
        switched: Adapters of a turn of ``set_adapter``.
        square: Side of the matrices that give the GEMM peak.
        small: Use small models.
    """

    rows: int
    adapters: int
    rank: int
    batch_size: int
    rounds: int
    own_rounds: int
    peft_rounds: int
    peer_rows: int
    switched: int
    square: int
    small: bool


class Arena:
    """All models of a cell, and who runs on them.

    Args:
        place: An empty directory.
        shape: What the models look like.
        dtype: Type to compute in.
        device: Where to run.
        sizes: How much is measured.
        stack: Closes what is opened.

    Attributes:
        contestants: Who takes turns, by name.
        notes: What could not be done, and costs that are in no turn.
    """

    def __init__(
        self,
        place: Path,
        shape: Shape,
        dtype: torch.dtype,
        device: str,
        sizes: Sizes,
        stack: ExitStack,
    ) -> None:
        self._shape, self._dtype, self._device, self._sizes = shape, dtype, device, sizes
        self._place = place
        self.notes: list[str] = []
        say("writing the base and the adapters")
        self._base = write_base(place / "base", shape, dtype=dtype, small=sizes.small)
        self._adapters = {kind: self._write(kind) for kind in self._kinds()}
        here: dict[str, Any] = {"dtype": dtype, "device": device}
        say("opening our bases and attaching")
        self._ours = {
            name: stack.enter_context(Ours(self._base, adapters, **here))
            for name, adapters in {"bare": [], **self._adapters}.items()
        }
        say("loading the peers' bases and adapters")
        self._plain = load_frozen(self._base, shape, **here)
        self._peft = {
            kind: load_peft(self._base, self._adapters[kind], shape, **here)
            for kind in ("attention", "all-linear")
        }
        self._jobs = {name: self._job(name) for name in ("skewed", "uniform")}
        # A few short rows on which everything is run once before it counts.
        self._warm = make_work(
            rows=sizes.batch_size, adapters=sizes.adapters, batch_size=sizes.batch_size,
            vocabulary=self._plain.config.vocab_size, distribution="brief",
        )  # fmt: skip
        self.contestants = dict(self._all(self._jobs, self._sizes))
        self._rehearsals = dict(self._all(dict.fromkeys(self._jobs, self._warm), self._sizes))
        pyfunc = self._pyfunc()
        if pyfunc is not None:
            self.contestants["mlflow"] = self._rehearsals["mlflow"] = pyfunc

    def rehearsal(self, name: str) -> Contestant:
        """Return a contestant with very little to do."""
        return self._rehearsals[name]

    def checks(self) -> dict[str, Tokens]:
        """Run rows with soft prompts through PEFT alone, which cannot mix them."""
        if self._dtype != torch.float32 or "prompt" not in self._adapters:
            return {}
        work = self._jobs["skewed"]
        rows = sorted(range(work.rows), key=lambda row: work.budgets[row])[:_ALONE]
        return {
            "alone": run_alone(
                self._base, self._adapters["prompt"], self._shape, work, rows, device=self._device
            )
        }

    def peaks(self) -> dict[str, float]:
        """Measure matrix products without anything around them."""
        here: dict[str, Any] = {"dtype": self._dtype, "device": self._device}
        width = self._plain.get_input_embeddings().embedding_dim
        rows, small = self._sizes.batch_size, self._sizes.small
        return {
            "square": square_peak(self._sizes.square, **here),
            "skinny": skinny_peak(rows, width, small=small, **here),
        }

    def where(self) -> dict[str, Any]:
        """Run the job once more on each of our bases, and say where the time goes."""
        work = self._jobs["skewed"]
        found: dict[str, Any] = {}
        for kind, ours in self._ours.items():
            name = "prompts" if kind == "prompt" else kind
            say(f"where the time goes: {name}")
            found[name] = measure_where(ours.base, lambda ours=ours: ours.run(work))
        floor = measure_floor(self._dtype) if self._device == "cpu" else None
        width = self._sizes.rank * self._dtype.itemsize
        for kind in ("attention", "all-linear"):
            if floor is not None:
                found[kind]["limits"] = limits(found[kind], found["bare"], floor, width)
        return found

    def flops(self) -> dict[str, float]:
        """Count the useful work of the jobs that our engine does."""
        work = self._jobs["skewed"]
        bare = useful_flops(self._plain, work)
        found = {"bare": bare}
        for kind, adapters in self._adapters.items():
            own = 0.0 if kind == "prompt" else self._low_rank_flops(adapters[0], work)
            found["prompts" if kind == "prompt" else kind] = bare + own
        return found

    def time_switching(self) -> None:
        """Note what PEFT's ``set_adapter`` takes by itself."""
        for kind, model in self._peft.items():
            taken = []
            for number in range(self._sizes.adapters):
                start = time.perf_counter()
                model.set_adapter(str(number), inference_mode=True)
                taken.append(time.perf_counter() - start)
            median = 1e3 * statistics.median(taken)
            self.notes.append(f"set_adapter alone, {kind}: {median:.2f} ms a time")

    def _low_rank_flops(self, adapter: Path, work: Work) -> float:
        with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
            names = file.keys()  # a method of its own: the file is no dictionary
            shapes = [(name, file.get_slice(name).get_shape()) for name in names]
        return useful_flops(self._plain, work, adapter=shapes)

    def _kinds(self) -> list[str]:
        kinds = ["attention", "all-linear"]
        return kinds if self._shape.encoder_decoder else [*kinds, "prompt"]

    def _write(self, kind: str) -> list[Path]:
        sizes = self._sizes
        return write_adapters(
            self._place / kind, self._base, self._shape,
            kind=kind, count=sizes.adapters, rank=sizes.rank, dtype=self._dtype,
        )  # fmt: skip

    def _job(self, distribution: str) -> Work:
        sizes = self._sizes
        return make_work(
            rows=sizes.rows, adapters=sizes.adapters, batch_size=sizes.batch_size,
            vocabulary=self._plain.config.vocab_size, distribution=distribution,
        )  # fmt: skip

    def _all(self, jobs: Mapping[str, Work], sizes: Sizes) -> Iterator[tuple[str, Contestant]]:
        work = jobs["skewed"]
        names = {
            "bare": "Dovetail, bare base",
            "attention": "Dovetail, LoRA on attention",
            "all-linear": "Dovetail, LoRA on all linear layers",
            "prompt": "Dovetail, soft prompts",
        }
        for kind, ours in self._ours.items():
            name = "prompts" if kind == "prompt" else kind
            yield name, self._whole(names[kind], ours, work, sizes.own_rounds)
        for name, fix in (("generate", True), ("generate-slow", False)):
            yield (
                name,
                Contestant(
                    label=f"transformers generate(), bare base{_fixed(fix)}",
                    run=lambda turn, fix=fix: run_plain(
                        self._plain, work, work.some_batches(sizes.peer_rows, turn), fix=fix
                    ),
                    turns=sizes.rounds,
                ),
            )
        for kind, model in self._peft.items():
            yield from self._peft_runs(kind, model, work, sizes)
        uniform = jobs["uniform"]
        for kind in ("bare", "attention"):
            label = f"{names[kind]}, uniform budgets"
            yield f"{kind}-uniform", self._whole(label, self._ours[kind], uniform, 1)
        yield (
            "generate-uniform",
            Contestant(
                label="transformers generate(), bare base, head fixed, uniform budgets",
                run=lambda turn: run_plain(
                    self._plain, uniform, uniform.some_batches(sizes.peer_rows, turn), fix=True
                ),
                turns=1,
            ),
        )

    def _peft_runs(
        self, kind: str, model: Any, work: Work, sizes: Sizes
    ) -> Iterator[tuple[str, Contestant]]:
        for name, fix in ((f"peft-{kind}", True), (f"peft-{kind}-slow", False)):
            yield (
                name,
                Contestant(
                    label=f"PEFT adapter_names, {kind}{_fixed(fix)}",
                    run=lambda turn, fix=fix: run_mixed(
                        model, work, work.some_batches(sizes.peer_rows, turn), fix=fix
                    ),
                    turns=sizes.peft_rounds if fix else 1,
                ),
            )
        for name, fix in ((f"switch-{kind}", True), (f"switch-{kind}-slow", False)):
            yield (
                name,
                Contestant(
                    label=f"PEFT set_adapter, {kind}{_fixed(fix)}",
                    run=lambda turn, fix=fix: run_switched(
                        model, work, _some(sizes, turn), fix=fix
                    ),
                    turns=sizes.peft_rounds if fix else 1,
                ),
            )

    def _whole(self, label: str, ours: Ours, work: Work, turns: int) -> Contestant:
        return Contestant(label=label, run=lambda _turn: ours.run(work), turns=turns)

    def _pyfunc(self) -> Contestant | None:
        if self._dtype != torch.float32 or self._device != "cpu":
            return None
        work = self._jobs["skewed"]
        start = time.perf_counter()
        try:
            served = Pyfunc(
                self._place / "mlflow", self._base, self._adapters["attention"][0], self._shape,
                work, work.groups()[0],
            )  # fmt: skip
        except _NO_PIPELINE as error:
            text = str(error).strip("'\"").split(". ")[0]
            self.notes.append(f"mlflow.transformers cannot: {type(error).__name__}: {text[:160]}")
            return None
        self.notes.append(
            f"merging, saving and loading one adapter with mlflow.transformers took "
            f"{time.perf_counter() - start:.1f} s, which is not in its rows/s"
        )
        return Contestant(
            label="mlflow.transformers pyfunc, one merged adapter",
            run=lambda _turn: served.run(),
            turns=self._sizes.peft_rounds,
        )


def _some(sizes: Sizes, turn: int) -> list[int]:
    """Choose adapters for a turn, other ones in each."""
    start = turn * sizes.switched
    return sorted({number % sizes.adapters for number in range(start, start + sizes.switched)})


def _fixed(fix: bool) -> str:
    return ", head fixed" if fix else ", as it comes"
