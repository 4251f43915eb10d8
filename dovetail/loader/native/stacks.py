"""The matrices of the adapters in use side by side, so that one product serves them all.

Every adapter in use has a seat, the same at all modules; a module's stack holds its matrices there.
A seat keeps what it has until another adapter needs the place, so a batch whose rows come and go
copies an adapter once, when it comes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from dovetail.loader.native.adapter import LowRank, NativeAdapter

_ROOM = 1.25


class Seats:
    """Which adapter sits where."""

    def __init__(self) -> None:
        self._adapters: list[NativeAdapter | None] = []

    def assign(self, adapters: Sequence[NativeAdapter]) -> list[int]:
        """Give each adapter a seat: its own, if it has one, else the first that none of them has.

        Every seat up to the last one costs time in every step, taken or not. So where a quarter
        would be empty, adapters that sit far behind move up.

        Args:
            adapters: Different adapters.
        """
        seats = self._sit(adapters)
        if max(seats, default=0) + 1 > len(adapters) * _ROOM:
            behind = {id(a) for a, seat in zip(adapters, seats, strict=True) if seat >= len(seats)}
            self._adapters = [None if id(there) in behind else there for there in self._adapters]
            seats = self._sit(adapters)
        return seats

    def _sit(self, adapters: Sequence[NativeAdapter]) -> list[int]:
        asked = set(map(id, adapters))
        taken = {id(adapter): seat for seat, adapter in enumerate(self._adapters)}
        free = iter(
            [seat for seat, adapter in enumerate(self._adapters) if id(adapter) not in asked]
        )
        seats = []
        for adapter in adapters:
            seat = taken.get(id(adapter))
            if seat is None:
                seat = next(free, None)
            if seat is None:
                seat = len(self._adapters)
                self._adapters.append(None)
            self._adapters[seat] = adapter
            seats.append(seat)
        return seats

    def leave(self, adapter: NativeAdapter) -> None:
        """Free an adapter's seat, if it has one."""
        self._adapters = [None if there is adapter else there for there in self._adapters]


class Stack:
    """One module's matrices, by seat.

    Attributes:
        downs: ``[seats, rank, inputs]``, ranks filled up with zeros.
        ups: ``[seats, rank, outputs]``, likewise, multiplied by the adapter's scale.
        changes: Counts the changes of any seat.
    """

    def __init__(self) -> None:
        self._pairs: list[LowRank | None] = []
        self.changes = 0
        self.clear()

    def seat(self, pairs: Mapping[int, LowRank | None], *, seats: int) -> None:
        """See that pairs are in their seats, and that there are so many seats.

        Args:
            pairs: By seat, at least one; None is an adapter that does not touch this module.
            seats: Number of seats.
        """
        there = self._pairs
        missing = [
            (seat, pair)
            for seat, pair in pairs.items()
            if (there[seat] if seat < len(there) else None) is not pair
        ]
        if not missing and seats <= len(there):
            return
        self.changes += 1
        self._grow(max(seats, len(there)), [pair for pair in pairs.values() if pair is not None])
        for seat, pair in missing:
            self._put(seat, pair)

    def _put(self, seat: int, pair: LowRank | None) -> None:
        own = 0 if pair is None else len(pair.down)
        if pair is not None:
            # Where it sits already, if anywhere, it is copied from faster.
            before = next((at for at, there in enumerate(self._pairs) if there is pair), None)
            if before is None:
                self.downs[seat, :own] = pair.down
                torch.mul(pair.up_t, pair.scale, out=self.ups[seat, :own])
            else:
                self.downs[seat, :own] = self.downs[before, :own]
                self.ups[seat, :own] = self.ups[before, :own]
        if own < self.downs.shape[1]:
            self.downs[seat, own:] = 0
            self.ups[seat, own:] = 0
        self._pairs[seat] = pair

    def clear(self) -> None:
        """Give the memory back."""
        self.downs = self.ups = torch.empty(0)
        self._pairs = []
        self.changes += 1

    def _grow(self, seats: int, pairs: Sequence[LowRank]) -> None:
        old = len(self._pairs)
        rank = max(self.downs.shape[1] if old else 0, *(len(pair.down) for pair in pairs))
        if old == seats and self.downs.shape[1] == rank:
            return
        like = pairs[0]
        downs = like.down.new_zeros(seats, rank, like.down.shape[1])
        ups = like.up.new_zeros(seats, rank, like.up.shape[0])
        if old:
            before = self.downs.shape[1]
            downs[:old, :before] = self.downs
            ups[:old, :before] = self.ups
        self.downs, self.ups = downs, ups
        self._pairs += [None] * (seats - old)
