"""The low-rank products of a batch's rows by torch's own operators: on any device.

Runs of many tokens are multiplied one after the other, a few at once; where there are few tokens to
each adapter, all matrices lie side by side, and one product serves them all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from dovetail.loader.native.adapter import NativeAdapter
from dovetail.loader.native.chunks import Chunk, cut_into_chunks
from dovetail.loader.native.delta import Run, Runs, uneven
from dovetail.loader.native.groups import Groups
from dovetail.loader.native.stacks import Seats, Stack

_FULL = 4  # bytes
# Runs of so many tokens on average are multiplied in chunks; shorter ones by seats, all at once.
CHUNK_TOKENS = 8
# A product in half precision costs its start more than its size, so several runs share one.
CHUNK_RUNS = 4


class StackedProducts:
    """Who sits where, and the stacks of all layers."""

    def __init__(self) -> None:
        self._seats = Seats()
        self._stacks: dict[str, Stack] = {}

    def add_layer(self, name: str) -> None:
        """Be ready for adapters on a linear layer."""
        self._stacks[name] = Stack()

    def drop_layer(self, name: str) -> None:
        """Forget a layer."""
        self._stacks.pop(name, None)

    def leave(self, adapter: NativeAdapter) -> None:
        """Free an adapter's seat, if it has one."""
        self._seats.leave(adapter)

    def compose(self, runs: Runs, *, idle: Collection[int]) -> Seating:
        """Work out who sits where."""
        return Seating(runs, idle=idle, seats=self._seats, stacks=self._stacks)


class Seating:
    """Who sits where in one composition of a batch.

    Args:
        runs: The rows.
        idle: Rows that nobody looks at.
        seats: Gives adapters their seats.
        stacks: Of the layers, by name.
    """

    def __init__(
        self, runs: Runs, *, idle: Collection[int], seats: Seats, stacks: dict[str, Stack]
    ) -> None:
        self._runs, self._idle, self._all, self._stacks = runs, idle, seats, stacks
        self._seats: list[int | None] = []
        self._groups: dict[int, Groups] = {}

    @property
    def seats(self) -> Sequence[int | None]:
        """The seat of each run, None without an adapter; taken when they are first needed."""
        if not self._seats:
            adapters = {id(adapter): adapter for _, adapter in self._runs if adapter is not None}
            own = dict(zip(adapters, self._all.assign(list(adapters.values())), strict=True))
            self._seats = [
                None if adapter is None else own[id(adapter)] for _, adapter in self._runs
            ]
        return self._seats

    def groups(self, each: int, device: torch.device) -> Groups:
        """Return the places of all tokens, for so many tokens of each row."""
        if each not in self._groups:
            counts = [count for count, _ in self._runs]
            places = list(zip(counts, self.seats, strict=True))
            self._groups[each] = Groups(places, each=each, idle=self._idle, device=device)
        return self._groups[each]

    def delta(self, name: str) -> StackedDelta:
        """Return what the rows do to a layer that any of their adapters sits on."""
        runs = [
            (count, None if adapter is None else adapter.low_rank.get(name))
            for count, adapter in self._runs
        ]
        return StackedDelta(runs, stack=self._stacks[name], seating=self)


class StackedDelta:
    """Low-rank products on a linear layer.

    Args:
        runs: Neighbouring rows with the same pair, as a number of rows and the pair, in order;
            together all rows of the batch.
        stack: The layer's matrices by seat.
        seating: Who sits where.
    """

    def __init__(self, runs: Sequence[Run], *, stack: Stack, seating: Seating) -> None:
        self._rows = sum(count for count, _ in runs)
        self._runs, self._stack, self._seating = runs, stack, seating
        down = next(pair.down for _, pair in runs if pair is not None)
        self._dtype = down.dtype
        alone = down.device.type == "cpu" and down.dtype.itemsize >= _FULL
        self._together = 1 if alone else CHUNK_RUNS
        self._chunks: list[tuple[int, Chunk | None]] = []
        self._downs_t = self._ups = torch.empty(0)  # as of the stack's change ``_seen``
        self._seen = -1

    def add(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the output with the rows' products added, in place where that goes.

        Args:
            x: ``[..., inputs]``, equally many tokens of each row, in the order of the rows.
            output: ``[..., outputs]``.
        """
        if x.dtype != self._dtype or output.dtype != self._dtype:
            wide = self.add(x.to(self._dtype), output.to(self._dtype))
            return wide.to(output.dtype)
        if not output.is_contiguous():
            output = output.contiguous()
        x2 = x.reshape(-1, x.shape[-1])
        tokens = x2.shape[0]
        if tokens % self._rows:
            raise RuntimeError(uneven(tokens, self._rows))
        out2 = output.view(-1, output.shape[-1])
        if len(self._runs) == 1 or tokens >= CHUNK_TOKENS * len(self._runs):
            self._add_chunks(x2, out2, tokens // self._rows)
        else:
            self._add_groups(x2, out2, self._seating.groups(tokens // self._rows, x2.device))
        return output

    def _add_chunks(self, x2: torch.Tensor, out2: torch.Tensor, each: int) -> None:
        if not self._chunks:
            self._chunks = cut_into_chunks(self._runs, most=self._together)
        sizes = [count * each for count, _ in self._chunks]
        for part, out, (_, chunk) in zip(
            x2.split_with_sizes(sizes), out2.split_with_sizes(sizes), self._chunks, strict=True
        ):
            if chunk is not None:
                chunk.add(part, out)

    def _add_groups(self, x2: torch.Tensor, out2: torch.Tensor, groups: Groups) -> None:
        if self._seen != self._stack.changes:
            # Another batch may have needed the seats since the last time.
            self._take_seats(groups.seats)
        placed = x2.index_select(0, groups.take).view(groups.seats, groups.width, -1)
        high = placed.bmm(self._downs_t).bmm(self._ups).view(-1, out2.shape[1])
        # Not added at ``groups.take``: that is several times slower.
        high = high.index_select(0, groups.back)
        if groups.bare is not None:
            high.masked_fill_(groups.bare, 0)
        out2.add_(high)

    def _take_seats(self, count: int) -> None:
        stack = self._stack
        seated = {
            seat: pair
            for seat, (_, pair) in zip(self._seating.seats, self._runs, strict=True)
            if seat is not None
        }
        stack.seat(seated, seats=count)
        self._downs_t, self._ups = stack.downs[:count].transpose(1, 2), stack.ups[:count]
        self._seen = stack.changes
