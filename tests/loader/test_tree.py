"""Changes to a module tree are read off, taken out and put back."""

import pytest
import torch

from dovetail.loader.tree import Snapshot


class Wrapped(torch.nn.Module):
    """A layer around a layer."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        """Double what the inner layer says."""
        return 2 * self.inner(x)


@pytest.fixture
def model():
    """Two linear layers."""
    return torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))


def test_a_replaced_layer_is_taken_out_and_put_back(model):
    """The change acts inside the block only, even if the block fails."""
    x = torch.ones(1, 3)
    plain, layer = model(x), model[1]
    snapshot = Snapshot(model)
    model[1] = Wrapped(layer)
    change = snapshot.restore()
    assert model[1] is layer
    assert [type(module) for module in change.replaced] == [Wrapped]
    with change.applied():
        assert torch.equal(model(x), 2 * plain)
    assert torch.equal(model(x), plain)
    with pytest.raises(RuntimeError), change.applied():
        raise RuntimeError
    assert model[1] is layer


def test_attributes_and_hooks_are_restored(model):
    """What was set is removed, what was changed is set back, hooks go."""
    model[0].scale = 1
    snapshot = Snapshot(model)
    model[0].scale = 2
    model.patched = True
    model[1].register_forward_hook(lambda *_: None)
    change = snapshot.restore()
    assert model[0].scale == 1
    assert not hasattr(model, "patched")
    assert not model[1]._forward_hooks
    assert change.replaced == ()
    with change.applied():
        assert model[0].scale == 2
        assert model.patched
        assert model[1]._forward_hooks


def test_exchanged_weights_are_put_back_and_named(model):
    """A parameter that was given other data has its own again."""
    weight = model[0].weight.detach().clone()
    snapshot = Snapshot(model)
    model[0].weight.data = torch.zeros(3, 3)
    assert snapshot.restore().weights_changed == ("0.weight",)
    assert torch.equal(model[0].weight, weight)


def test_weights_that_were_overwritten_are_named(model):
    """They cannot be put back, but it does not go unseen."""
    snapshot = Snapshot(model)
    with torch.no_grad():
        model[1].bias.zero_()
    assert snapshot.restore().weights_changed == ("1.bias",)
