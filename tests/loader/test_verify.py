"""Saying how two base models differ."""

from types import SimpleNamespace

import pytest

from dovetail.errors import BaseModelNotFound, IncompatibleBaseModel
from dovetail.loader.verify import check_tokenizer, describe_difference, differing_tensors
from dovetail.registry.manifest import Manifest, TensorEntry

OLD, NEW = "sha256:" + "0" * 64, "sha256:" + "1" * 64


def manifest(**tensors):
    """Make a manifest from name, type, shape and digest."""
    return Manifest(
        tuple(TensorEntry(name.replace("__", "."), *entry) for name, entry in tensors.items())
    )


EXPECTED = manifest(
    wte__weight=("F32", (100, 8), OLD),
    h__weight=("F32", (8, 8), OLD),
    ln__weight=("F32", (8,), OLD),
)


def test_equal_manifests_do_not_differ():
    """Nothing is named."""
    assert differing_tensors(EXPECTED, EXPECTED) == ()
    assert describe_difference(EXPECTED, EXPECTED) == "all 3 tensors match"


def test_a_grown_vocabulary_is_called_that():
    """The first size of an embedding is its vocabulary."""
    found = manifest(
        wte__weight=("F32", (102, 8), NEW),
        h__weight=("F32", (8, 8), OLD),
        ln__weight=("F32", (8,), OLD),
    )
    assert describe_difference(EXPECTED, found) == (
        "2 of 3 tensors match; these differ: wte.weight (vocabulary of 102 instead of 100)"
    )


def test_another_type_is_said_once_and_per_tensor():
    """A checkpoint saved in half precision is other weights."""
    found = manifest(
        wte__weight=("BF16", (100, 8), NEW),
        h__weight=("BF16", (8, 8), NEW),
        ln__weight=("F32", (8,), OLD),
    )
    text = describe_difference(EXPECTED, found)
    assert text.startswith("1 of 3 tensors match; it is stored as BF16 instead of F32; ")
    assert "h.weight (BF16 instead of F32)" in text


def test_only_the_first_few_tensors_are_named():
    """Missing, new, reshaped and changed tensors each say so; the rest are counted."""
    found = manifest(
        bias=("F32", (8,), OLD),
        h__weight=("F32", (9, 9), OLD),
        ln__weight=("F32", (8,), NEW),
    )
    assert differing_tensors(EXPECTED, found) == ("bias", "h.weight", "ln.weight", "wte.weight")
    assert describe_difference(EXPECTED, found) == (
        "0 of 3 tensors match; these differ: bias (not expected), h.weight (shape [9, 9] instead "
        "of [8, 8]), ln.weight (other values) and 1 more"
    )


class Asked:
    """A registry that counts how often it is asked for a base model."""

    def __init__(self, **tokenizers):
        self.tokenizers = tokenizers
        self.count = 0

    def base_model(self, fingerprint):
        """Return what is recorded of a base model."""
        self.count += 1
        if fingerprint not in self.tokenizers:
            raise BaseModelNotFound("there is none", value=fingerprint)
        return SimpleNamespace(tokenizer_digest=self.tokenizers[fingerprint])


def check(registry, *, expected="base", found=OLD):
    """Compare the recorded tokenizer with that of an opened base."""
    opened = SimpleNamespace(name="opened", tokenizer_digest=found)
    return check_tokenizer(
        expected=expected, found=opened, registry=registry, what="it was trained with", allow=False
    )


@pytest.mark.parametrize("digest", [OLD, None], ids=["recorded", "without"])
def test_a_registry_is_asked_for_a_tokenizer_once(digest):
    """What it says of a base model holds for all adapters of that."""
    registry = Asked(base=digest)
    assert all(check(registry) for _ in range(3))
    assert registry.count == 1


def test_what_one_registry_says_of_a_tokenizer_is_not_taken_for_what_another_says():
    """Nor what it says of one base model for what it says of another."""
    first, second = Asked(base=OLD, other=NEW), Asked(base=NEW)
    assert check(first)
    for registry, expected in ((second, "base"), (first, "other")):
        with pytest.raises(IncompatibleBaseModel, match="another tokenizer"):
            check(registry, expected=expected)


def test_a_base_model_that_a_registry_gets_to_know_counts_from_then_on():
    """That it was not there yet is not remembered."""
    registry = Asked()
    assert check(registry)
    registry.tokenizers["base"] = NEW
    with pytest.raises(IncompatibleBaseModel, match="another tokenizer"):
        check(registry)
