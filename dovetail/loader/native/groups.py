"""Which tokens of a batch belong to which adapter, in the shape that one product needs.

::

    tokens   a a b c c c          seats      0: a a .     take    0 1 0
    runs     2   1 3                         1: b . .             2 0 0
                                             2: c c c             3 4 5

A place that no token fills takes the first token, and nobody takes back what comes of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch


class Groups:
    """Tokens by seat.

    Args:
        runs: Neighbouring rows with the same adapter, as a number of rows and the adapter's seat,
            None without one; in order, together all rows.
        each: Tokens of each row.
        idle: Rows that nobody looks at, so that it does not matter what they get.
        device: Where the model is.

    Attributes:
        seats: Number of seats, empty ones before the last included.
        width: Tokens of the seat that has most.
        take: Token in each place, ``[seats * width]``.
        back: Place of each token, ``[tokens]``; the first for a token that has none.
        bare: Which tokens have no place and must not be changed, ``[tokens, 1]``; None if all may.
    """

    def __init__(
        self,
        runs: Sequence[tuple[int, int | None]],
        *,
        each: int,
        idle: Collection[int],
        device: torch.device,
    ) -> None:
        tokens: dict[int, list[int]] = {}
        at = 0
        for count, seat in runs:
            after = at + count * each
            if seat is not None:
                tokens.setdefault(seat, []).extend(range(at, after))
            at = after
        self.seats = max(tokens) + 1
        self.width = max(map(len, tokens.values()))
        places = [tokens.get(seat, []) for seat in range(self.seats)]
        take = [token for own in places for token in [*own, *[0] * (self.width - len(own))]]
        place = {
            token: seat * self.width + number
            for seat, own in enumerate(places)
            for number, token in enumerate(own)
        }
        back = [place.get(token, 0) for token in range(at)]
        bare = [[token not in place and token // each not in idle] for token in range(at)]
        self.take = torch.tensor(take, device=device)
        self.back = torch.tensor(back, device=device)
        self.bare = torch.tensor(bare, device=device) if any(map(any, bare)) else None
