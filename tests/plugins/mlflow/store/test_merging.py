"""Pages of two stores are in one order, whatever of them is not shown."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from dovetail.plugins.mlflow.store.merging import Part, Place, merge
from dovetail.plugins.mlflow.store.ordering import order_of_models


@dataclass(frozen=True)
class Model:
    """What the order of models looks at."""

    name: str


names = st.lists(st.integers(0, 40).map("{:02}".format), unique=True, max_size=20)


def part(models, limit, *, behind=0):
    """Return what a store gives for a page."""
    items = models[behind : behind + limit]
    return Part(items, more=behind + limit < len(models))


@given(names, names, names, st.integers(1, 5))
def test_pages_are_in_one_order(ours, theirs, shadowed, limit):
    """A page ends early rather than that it leaves out what comes next."""
    models = map(Model, sorted(set(ours) - set(theirs)))
    mine = [([number], model) for number, model in enumerate(models, 1)]
    other = [Model(name) for name in sorted(theirs)]
    place, pages = Place(), []
    while True:
        page = merge(
            part(mine, limit, behind=place.behind[0] if place.behind else 0),
            part(other, limit, behind=place.offset),
            order=order_of_models(["name"]),
            limit=limit,
            place=place,
            is_shadowed=lambda one: one.name in shadowed,
        )
        pages.append([one.name for one in page])
        if not page.token:
            break
        assert Place.of(page.token) != place
        place = Place.of(page.token)
    expected = sorted((set(ours) - set(theirs)) | (set(theirs) - set(shadowed)))
    assert [name for page in pages for name in page] == expected
    assert all(len(page) <= limit for page in pages)
