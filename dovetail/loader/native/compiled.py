"""The low-rank products of a batch's rows by a compiled loop: on a CPU, where numba is there.

Nothing is gathered, and nothing filled up: the loop reads each adapter's own matrices where they
lie. Every adapter in use has a number, the same at all modules, and a module's table says where
its matrices are. So a batch of another composition needs no more than a list of who is where::

    tokens  a a b c c c      spans  first  count  number      table  down  up  rank  scale
                                      0      2      5             1  ...
                                      2      1      1             4  ...
                                      3      3      4             5  ...
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence

import numpy as np
import torch

from dovetail.loader.kernels import low_rank, threads
from dovetail.loader.native.adapter import LowRank, NativeAdapter
from dovetail.loader.native.delta import Runs, uneven

_SHARES = 8  # of each thread, at least, so that none waits long for another
_ROOM = 16  # numbers that a table has room for at first


class CompiledProducts:
    """The numbers of the adapters in use, and the tables of all modules.

    Attributes:
        changes: Counts the adapters that left; what was numbered before must be numbered anew.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._tables: dict[str, Table | None] = {}  # by layer; made when an adapter is used
        self._numbers: dict[int, tuple[int, NativeAdapter]] = {}  # kept, so that ids stay theirs
        self._free: list[int] = []

    def add_layer(self, name: str) -> None:
        """Be ready for adapters on a layer."""
        self._tables[name] = None

    def drop_layer(self, name: str) -> None:
        """Forget a layer, and its table, if it has one."""
        self._tables.pop(name, None)

    def compose(
        self,
        runs: Runs,
        *,
        idle: Collection[int],  # noqa: ARG002 (for torch's way; a row without adapter costs nothing here)
    ) -> Numbering:
        """Work out whose tokens are where."""
        return Numbering(runs, self)

    def table(self, name: str) -> Table:
        """Return the table of a layer."""
        found = self._tables.get(name)
        if found is None:
            found = self._tables[name] = Table()
        return found

    def of(self, adapter: NativeAdapter) -> int:
        """Return an adapter's number; at first, write down where its matrices are."""
        known = self._numbers.get(id(adapter))
        if known is not None:
            return known[0]
        number = self._free.pop() if self._free else len(self._numbers)
        for name, pair in adapter.low_rank.items():
            if name in self._tables:
                self.table(name).put(number, pair)
        self._numbers[id(adapter)] = number, adapter
        return number

    def leave(self, adapter: NativeAdapter) -> None:
        """Take an adapter's number away, if it has one."""
        known = self._numbers.pop(id(adapter), None)
        if known is None:
            return
        number = known[0]
        self.changes += 1
        self._free.append(number)
        for name in adapter.low_rank:
            table = self._tables.get(name)
            if table is not None:
                table.remove(number)


class Table:
    """Where one layer's matrices are, by their adapters' numbers."""

    def __init__(self) -> None:
        self._records = np.zeros((_ROOM, low_rank.PAIR_BYTES), dtype=np.uint8)
        self._tensors: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._given = low_rank.Arguments(pairs=self._records.ctypes.data)
        self._loop = 0
        self._dtype = torch.float32

    def put(self, number: int, pair: LowRank) -> None:
        """Write down where a pair is; ``up`` is copied, since it is read by its ranks."""
        down, up = pair.down.contiguous(), pair.up_t.contiguous()
        if not self._loop:
            self._dtype, self._loop = down.dtype, low_rank.LOOP.address(down.dtype)
            self._given.inputs, self._given.outputs = down.shape[1], up.shape[1]
        self._make_room(number)
        record = struct.pack(
            low_rank.PAIR, down.data_ptr(), up.data_ptr(), len(down), float(pair.scale)
        )
        self._records[number] = np.frombuffer(record, dtype=np.uint8)
        self._tensors[number] = (down, up)

    def remove(self, number: int) -> None:
        """Let go of a pair; its number stands for nothing."""
        self._records[number] = 0
        del self._tensors[number]

    def add(self, x: torch.Tensor, output: torch.Tensor, spans: Spans) -> torch.Tensor:
        """Return the output with the products added, in place where that goes.

        Args:
            x: ``[..., inputs]``.
            output: ``[..., outputs]``, for as many tokens.
            spans: Whose tokens they are.
        """
        if x.dtype != self._dtype or output.dtype != self._dtype:
            wide = self.add(x.to(self._dtype), output.to(self._dtype), spans)
            return wide.to(output.dtype)
        x, output = x.contiguous(), output.contiguous()
        given = self._given
        if x.numel() != spans.tokens * given.inputs or output.numel() != (
            spans.tokens * given.outputs
        ):
            # The loop would read and write elsewhere.
            raise RuntimeError(
                f"{spans.tokens} tokens of a module with {given.inputs} inputs and "
                f"{given.outputs} outputs cannot be {list(x.shape)} and {list(output.shape)}"
            )
        self._make_room(spans.last)
        given.x, given.y = x.data_ptr(), output.data_ptr()
        given.spans, given.count, given.ticket = spans.address, spans.count, 0
        threads.run(self._loop, given)
        return output

    def _make_room(self, number: int) -> None:
        room = len(self._records)
        if number >= room:
            larger = (max(number + 1, 2 * room), low_rank.PAIR_BYTES)
            records = np.zeros(larger, dtype=np.uint8)
            records[:room] = self._records
            self._records = records
            self._given.pairs = records.ctypes.data


class Spans:
    """Whose tokens those of a batch are.

    Args:
        runs: Neighbouring tokens of one adapter: how many, and its number, None without one; in
            order, together all tokens.

    Attributes:
        tokens: How many there are.
        count: Number of spans.
        address: Where they are, as the loop takes them.
        last: The highest number of an adapter.
    """

    def __init__(self, runs: Sequence[tuple[int, int | None]]) -> None:
        spans = []
        total = sum(count for count, _ in runs)
        most = -(-total // (_SHARES * torch.get_num_threads() * low_rank.TOKENS)) * low_rank.TOKENS
        at = 0
        for count, number in runs:
            after = at + count
            if number is not None:
                spans += [
                    (start, min(most, after - start), number) for start in range(at, after, most)
                ]
            at = after
        self._spans = np.array(spans, dtype=np.int64)
        self.tokens, self.count = total, len(spans)
        self.address: int = self._spans.ctypes.data
        self.last = max(number for _, _, number in spans)


class Numbering:
    """Who is where in one composition of a batch, for all modules.

    Args:
        runs: The rows.
        numbers: Gives adapters their numbers.
    """

    def __init__(self, runs: Runs, numbers: CompiledProducts) -> None:
        self._runs, self._numbers = runs, numbers
        self._rows = sum(count for count, _ in runs)
        self._spans: dict[int, Spans] = {}
        self._seen = -1

    def delta(self, name: str) -> CompiledDelta:
        """Return what the rows do to a layer."""
        return CompiledDelta(name, self)

    def add(self, name: str, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return a layer's output with the rows' products added, in place where that goes."""
        spans = self.spans(x.numel() // x.shape[-1])
        return self._numbers.table(name).add(x, output, spans)

    def spans(self, tokens: int) -> Spans:
        """Return the spans of so many tokens, equally many of each row.

        Raises:
            RuntimeError: The number of tokens is no multiple of the number of rows.
        """
        if self._seen != self._numbers.changes:
            self._spans.clear()
            self._seen = self._numbers.changes
        found = self._spans.get(tokens)
        if found is None:
            if tokens % self._rows:
                raise RuntimeError(uneven(tokens, self._rows))
            each = tokens // self._rows
            found = self._spans[tokens] = Spans(
                [
                    (count * each, None if adapter is None else self._numbers.of(adapter))
                    for count, adapter in self._runs
                ]
            )
        return found


class CompiledDelta:
    """Low-rank products on a linear layer.

    Args:
        name: The layer.
        numbering: Who is where in the batch.
    """

    def __init__(self, name: str, numbering: Numbering) -> None:
        self._name, self._numbering = name, numbering

    def add(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the output with the rows' products added, in place where that goes.

        Args:
            x: ``[..., inputs]``, equally many tokens of each row, in the order of the rows.
            output: ``[..., outputs]``.
        """
        return self._numbering.add(self._name, x, output)
