"""A registry to search; nothing changes it."""

import pytest


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def shelf(request, tmp_path_factory, place_at, make):
    """A registry of five versions that differ in every field, on each database in turn."""
    root = tmp_path_factory.mktemp("shelf")
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("databases").create()
    bases = {name: make.base(root / name, seed=at) for at, name in enumerate(("one", "two"))}
    with place_at(root / "place", url).open(actor="ann") as registry:

        def add(name, kind, seed, base, **options):
            payload = getattr(make, kind)(root / f"{kind}{seed}", seed=seed)
            registry.register(name, payload, base=bases[base], **options)

        add(
            "summary",
            "prompt",
            1,
            "one",
            task="summarization",
            tags={"team": "Support", "my tag": "x"},
            hyperparameters={"lr": 1e-5, "epochs": 3, "num_virtual_tokens": "many"},
            scores={"rougeL": 0.4},
        )
        add(
            "summary",
            "prompt",
            2,
            "one",
            hyperparameters={"lr": 0.5, "size": 10**20, "deep": {"a": [1]}},
            scores={"rougeL": 0.6, "a/b.c-d": 1},
        )
        add(
            "Summary",
            "lora",
            1,
            "two",
            tags={"team": "support", "é": "ü", "a\\b": "c", "%": "100%"},
            hyperparameters={"epochs": "3", "flag": True, "x.y": None},
            source_run="run-7",
        )
        add("labels", "lora", 2, "one", task="text-classification", scores={"rougeL": -1.0})
        add(
            "labels",
            "lora",
            3,
            "one",
            tags={"team": "it's"},
            generation_config={"max_new_tokens": 4},
        )
        add("labels", "lora", 4, "one", scores={"rougeL": 0.9})
        registry.edit_version("labels/1", tags={"team": "mine", "epochs": "3"}, description="new")
        registry.edit_version("summary/2", tags={"only": "two"})
        registry.promote("summary/1", "production")
        registry.promote("summary/2", "staging")
        registry.promote("labels/1", "production")
        registry.delete("labels/3")
        yield registry


@pytest.fixture(scope="session")
def found(shelf):
    """Return the references that a query finds, in the order of the answer."""

    def find(query, **options):
        return [str(version.reference) for version in shelf.search(query, **options).versions]

    return find
