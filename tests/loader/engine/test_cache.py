"""The cache of a running batch against a plain dictionary of rows."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dovetail.loader.engine.cache import RowCache, States

LAYERS, HEADS, SIZE = 2, 2, 3


class Rows(RuleBasedStateMachine):
    """Rows enter, move, write and leave; what attention sees is always the rows' own tokens."""

    @initialize(slots=st.integers(1, 4))
    def make(self, slots):
        """Begin with no row."""
        self.slots = slots
        self.cache = RowCache(
            layers=LAYERS, slots=slots, device=torch.device("cpu"), dtype=torch.float32
        )
        self.rows = {}
        self.numbers = 0

    def states(self, length):
        """Make keys and values that no other token has, of a stretch of tokens."""
        shape = (LAYERS, 2, HEADS, length, SIZE)
        count = torch.Size(shape).numel()
        numbers = torch.arange(self.numbers + 1, self.numbers + 1 + count).float()
        self.numbers += count
        return numbers.reshape(shape)

    @precondition(lambda self: len(self.rows) < self.slots)
    @rule(data=st.data(), lengths=st.lists(st.integers(0, 7), min_size=1, max_size=3))
    def enter(self, data, lengths):
        """Give a row a free slot."""
        lengths[0] += 1
        limit = sum(lengths) + data.draw(st.sampled_from([1, 5, 60]))
        longest = max([limit, *(limit for _, limit in self.rows.values())])
        self.cache.reserve(longest)
        slot = data.draw(st.sampled_from([s for s in range(self.slots) if s not in self.rows]))
        parts = [self.states(length) for length in lengths]
        self.cache.place(slot, [States(tuple(p[:, 0]), tuple(p[:, 1])) for p in parts])
        self.rows[slot] = (torch.cat(parts, dim=3), limit)
        self.cache.settle(list(self.rows))

    @precondition(lambda self: self.rows and len(self.rows) < self.slots)
    @rule(data=st.data())
    def move(self, data):
        """Give a row another slot."""
        source = data.draw(st.sampled_from(sorted(self.rows)))
        target = data.draw(st.sampled_from([s for s in range(self.slots) if s not in self.rows]))
        self.cache.move(source, target)
        self.rows[target] = self.rows.pop(source)
        self.cache.settle(list(self.rows))

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def leave(self, data):
        """Take a row away."""
        del self.rows[data.draw(st.sampled_from(sorted(self.rows)))]
        self.cache.settle(list(self.rows))

    @precondition(lambda self: self.rows)
    @rule(times=st.integers(1, 70))
    def write(self, times):
        """Let all rows write tokens, as long as each is below its limit."""
        for _ in range(times):
            self.finish()
            if not self.rows:
                return
            used = max(self.rows) + 1
            new = torch.stack([self.states(1) for _ in range(used)], dim=2)
            assert self.cache.positions(used).shape == (used, 1)
            hidden = self.cache.hidden(used)
            for slot, (own, _) in self.rows.items():
                assert self.cache.positions(used)[slot] == own.shape[3]
            for layer in range(LAYERS):
                keys, values = self.cache.update(*new[layer], layer)
                assert hidden.shape == (used, 1, 1, keys.shape[2])
                for slot, (own, _) in self.rows.items():
                    seen = hidden[slot, 0, 0] == 0
                    whole = torch.cat([own[layer], new[layer, :, slot]], dim=2)
                    assert torch.equal(keys[slot][:, seen], whole[0])
                    assert torch.equal(values[slot][:, seen], whole[1])
                    assert bool(seen[-whole.shape[2] :].all())
                    # What is masked is multiplied by zero, so another row's NaN must not be there.
                    for states, mine in ((keys, whole[0]), (values, whole[1])):
                        hides = states[slot][:, ~seen]
                        assert bool((torch.isin(hides, mine) | (hides == 0)).all())
            self.cache.advance()
            self.rows = {
                slot: (torch.cat([own, new[:, :, slot]], dim=3), limit)
                for slot, (own, limit) in self.rows.items()
            }

    def finish(self):
        """Take those away that are at their limit."""
        self.rows = {
            s: (own, limit) for s, (own, limit) in self.rows.items() if own.shape[3] < limit
        }
        self.cache.settle(list(self.rows))

    @invariant()
    def no_more_columns_than_needed_are_looked_at(self):
        """As many as the longest row has."""
        if hasattr(self, "cache"):
            longest = max((own.shape[3] for own, _ in self.rows.values()), default=0)
            assert self.cache.get_seq_length() == longest


TestRows = Rows.TestCase
TestRows.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_the_size_of_states_is_that_of_their_tensors(lengths):
    """In bytes; the length in tokens."""
    for length in lengths:
        tensors = tuple(torch.zeros(HEADS, length, SIZE) for _ in range(LAYERS))
        states = States(tensors, tensors)
        assert states.length == length
        assert states.size == 2 * LAYERS * HEADS * length * SIZE * 4
