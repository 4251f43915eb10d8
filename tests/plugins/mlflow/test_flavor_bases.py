"""One frozen base per process: shared, checked against its fingerprint, found where it moved to."""

import gc
import json
import shutil
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import flavor_models as models
import huggingface_hub.constants
import mlflow
import pytest

import dovetail.plugins.mlflow as flavor
from dovetail.errors import (
    BaseModelNotFound,
    DigestMismatch,
    IncompatibleBaseModel,
    InvalidInput,
    InvalidPayload,
)
from dovetail.plugins.mlflow import bases as shared_bases
from dovetail.plugins.mlflow.saved import read_saved
from dovetail.registry.fingerprint import read_base
from dovetail.registry.store import Registry

bases, adapters, moved, one_thread = models.bases, models.adapters, models.moved, models.one_thread
TEXTS, NEW = list(models.TEXTS), models.NEW
pytestmark = models.IGNORED


@pytest.fixture(autouse=True)
def nothing_open():
    """Begin and end without an open base."""
    flavor.release_bases()
    gc.collect()
    yield
    flavor.release_bases()


@pytest.fixture
def save(adapters, tmp_path):
    """Give a function that saves an adapter for the GPT-2 and returns where."""
    count = iter(range(100))

    def run(*, seed=0, **options):
        place = tmp_path / f"model-{next(count)}"
        flavor.save_model(adapters(seed=seed), place, **options)
        return str(place)

    return run


def test_models_of_one_base_share_its_weights(save):
    """Two adapters sit on one frozen base; the same payload sits there once."""
    one, two, again = (flavor.load_model(place) for place in (save(), save(seed=1), save()))
    assert one.base is two.base is again.base
    assert one.adapter.reference == again.adapter.reference != two.adapter.reference
    assert len(one.base.attached) == 2


def test_adapter_goes_when_no_model_has_it(save):
    """An adapter stays attached while a model with its payload is alive, and no longer."""
    one, again, two = (flavor.load_model(place) for place in (save(), save(), save(seed=1)))
    digest = one.adapter.payload_digest
    del one
    gc.collect()
    other = flavor.load_model(save(seed=2))
    assert digest in {adapter.payload_digest for adapter in other.base.attached}
    assert again.predict(TEXTS)
    del again
    gc.collect()
    flavor.load_model(save(seed=2))
    assert digest not in {adapter.payload_digest for adapter in two.base.attached}


def test_base_stays_between_one_model_and_the_next(save):
    """The base that was used last is not opened again, until it is released."""
    place = save()
    first = id(flavor.load_model(place).base.model)
    gc.collect()
    model = flavor.load_model(place)
    assert id(model.base.model) == first
    flavor.release_bases()
    assert flavor.load_model(place).base is model.base


def test_what_is_recorded_of_a_base_is_checked_once(save, monkeypatch):
    """Directories that were saved at different moments tell of one base, which is parsed once."""
    places = [save(), save(seed=1)]
    first, second = (read_saved(place).base_document["base_model"] for place in places)
    assert first.pop("created_at") != second.pop("created_at")
    assert first == second
    read, calls = shared_bases.read_base_document, []
    monkeypatch.setattr(
        shared_bases, "read_base_document", lambda document: calls.append(1) or read(document)
    )
    shared_bases._read_canonical.cache_clear()
    kept = [flavor.load_model(place) for place in places]
    assert len(kept[0].base.attached) == len(places)
    assert len(calls) == 1


@pytest.mark.parametrize("moment", ["yesterday", None, "2026-01-01T00:00:00+01:00"])
def test_record_of_a_base_with_an_impossible_moment_is_refused(save, moment):
    """What is left out of the comparison is checked all the same, though the rest is known."""
    kept = flavor.load_model(save())
    place = save(seed=1)
    path = Path(place) / "base_model.json"
    document = json.loads(path.read_text())
    document["base_model"]["created_at"] = moment
    path.write_text(json.dumps(document))
    with pytest.raises(InvalidPayload, match="created_at"):
        flavor.load_model(place)
    assert len(kept.base.attached) == 1


def test_base_that_somebody_closed_is_opened_again(save):
    """Closing the shared base, or taking an adapter off it, does not spoil the next model."""
    place = save()
    model = flavor.load_model(place)
    model.base.detach(model.adapter.reference)
    del model
    gc.collect()
    model = flavor.load_model(place)
    assert model.predict(TEXTS)
    model.base.close()
    assert flavor.load_model(place).predict(TEXTS)


def test_threads_load_and_predict_together(bases, adapters, save):
    """Eight threads load four adapters at once: one base, and each answer is right."""
    places = [save(seed=seed) for seed in range(4)] * 2
    barrier = threading.Barrier(len(places))

    def run(place):
        barrier.wait()
        model = mlflow.pyfunc.load_model(place)
        return model, model.predict(TEXTS, params={"max_new_tokens": NEW})

    with ThreadPoolExecutor(len(places)) as threads:
        done = list(threads.map(run, places))
    assert len({id(model.get_raw_model().base) for model, _ in done}) == 1
    expected = [models.expected(bases("gpt2"), adapters(seed=seed), TEXTS) for seed in range(4)] * 2
    assert [answers for _, answers in done] == expected


def test_device_and_type_make_a_base_of_their_own(save):
    """In another type it is another model; spelled otherwise it is the same."""
    place = save()
    one = flavor.load_model(place)
    assert flavor.load_model(place, model_config={"dtype": "torch.float32"}).base is one.base
    other = flavor.load_model(place, model_config={"dtype": "bfloat16", "device": "cpu"})
    assert other.base is not one.base
    assert str(other.base.model.dtype) == "torch.bfloat16"


def test_changed_weights_are_refused(moved, save):
    """A base whose weights changed is refused, with both fingerprints and what differs."""
    base = moved()
    place = save(base_model=base)
    before = read_base(base).manifest.fingerprint
    assert flavor.load_model(place).predict(TEXTS)
    models.change_weights(base)
    after = read_base(base).manifest.fingerprint
    for load in (flavor.load_model, mlflow.pyfunc.load_model):
        with pytest.raises(IncompatibleBaseModel, match="27 of 28 tensors match") as caught:
            load(place)
        assert before[:19] in str(caught.value)
        assert after[:19] in str(caught.value)
        assert (caught.value.expected, caught.value.found) == (before, after)


def test_mismatch_can_be_allowed_by_name(moved, save):
    """Whoever says so by name gets the adapter on other weights, and the adapter says so."""
    base = moved()
    place = save(base_model=base)
    models.change_weights(base)
    model = flavor.load_model(place, model_config={"allow_base_mismatch": True})
    assert model.adapter.base_mismatch
    assert model.predict(TEXTS)


def test_changed_tokenizer_is_refused(moved, save):
    """The same text would become other tokens."""
    base = moved()
    place = save(base_model=base)
    models.make_tokenizer(base, swap=True)
    with pytest.raises(IncompatibleBaseModel, match="another tokenizer"):
        flavor.load_model(place)


def test_wrong_base_is_refused_at_loading(bases, save):
    """A base of other weights is refused even where it is named."""
    with pytest.raises(IncompatibleBaseModel, match="was trained on"):
        flavor.load_model(save(), model_config={"base_model": str(bases("t5"))})


def test_moved_base_is_found_with_model_config(adapters, moved, save, monkeypatch):
    """Where the base lies now is said when the model is loaded, in Python or in the environment."""
    base = moved()
    place = save(base_model=base)
    expected = models.expected(base, adapters(), TEXTS)
    new = base.rename(base.with_name("elsewhere"))
    with pytest.raises(BaseModelNotFound, match="say where it is with model_config="):
        mlflow.pyfunc.load_model(place)
    params = {"max_new_tokens": NEW}
    config = {"base_model": str(new)}
    loaded = mlflow.pyfunc.load_model(place, model_config=config)
    assert loaded.predict(TEXTS, params=params) == expected
    assert flavor.load_model(place, model_config=config).predict(TEXTS, params) == expected
    monkeypatch.setenv("MLFLOW_PYFUNC_INFERENCE_CONFIG", json.dumps(config))
    assert mlflow.pyfunc.load_model(place).predict(TEXTS, params=params) == expected


def test_moved_base_is_found_through_the_registry(moved, save):
    """Without a word, the registry of the environment is asked for the fingerprint."""
    base = moved()
    place = save(base_model=base)
    new = base.rename(base.with_name("elsewhere"))
    with Registry.open() as registry:
        registry.register_base(new)
    assert flavor.load_model(place).base.checkpoint.directory == new


def test_base_of_the_hub_is_found_by_name_and_commit(bases, save, tmp_path, monkeypatch):
    """A hub model is saved by name and commit, and found in whatever cache the machine has."""
    commit = "a" * 40

    def cache(name):
        place = tmp_path / name
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place))
        repository = place / "models--someone--tiny"
        shutil.copytree(bases("gpt2"), repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        return place

    first = cache("here")
    place = save(base_model="someone/tiny")
    saved = read_saved(place)
    assert (saved.base_name, saved.base_revision) == ("someone/tiny", commit)
    shutil.rmtree(first)
    second = cache("there")
    assert second in flavor.load_model(place).base.checkpoint.directory.parents


def test_config_of_a_model_is_saved_with_it(save):
    """What model_config says when a model is saved holds whenever it is loaded."""
    place = save(model_config={"max_new_tokens": 2, "dtype": "bfloat16"})
    model = flavor.load_model(place)
    assert str(model.base.model.dtype) == "torch.bfloat16"
    assert {len(answer.token_ids) for answer in model.generate(TEXTS)} <= {0, 1, 2}


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"basemodel": "x"}, "the key 'basemodel', which is not taken"),
        ({"base_model": 3}, "base_model is 3; it must be a text"),
        ({"allow_base_mismatch": "yes"}, "must be true or false"),
        ({"max_new_tokens": 0}, "must be a whole number from 1"),
    ],
)
def test_config_that_is_not_understood_is_refused(config, match, adapters, save):
    """At saving and at loading alike."""
    with pytest.raises(InvalidInput, match=match):
        save(model_config=config)
    with pytest.raises(InvalidInput, match=match):
        flavor.load_model(save(), model_config=config)


def test_tampered_adapter_is_refused(save):
    """Files that are not those that were saved are not attached."""
    place = Path(save())
    config = place / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 4 '))
    with pytest.raises(DigestMismatch, match="were changed since it was saved"):
        flavor.load_model(str(place))


def test_a_changed_model_is_neither_saved_again_nor_registered(save, bases, tmp_path):
    """Its digest would be taken anew, and what was changed would pass for what was trained."""
    place = Path(save())
    config = place / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 4 '))
    with pytest.raises(DigestMismatch, match="were changed since it was saved"):
        flavor.save_model(str(place), tmp_path / "again")
    mlflow.set_registry_uri("dovetail://")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'runs.db'}")
    client = mlflow.MlflowClient()
    client.create_registered_model("summary")
    with pytest.raises(mlflow.MlflowException, match="were changed since it was saved"):
        client.create_model_version("summary", str(place))
    whole, other = Path(save()), Path(save(base_model=str(bases("gpt2"))))
    document = json.loads((other / "base_model.json").read_text())
    document["base_model"]["fingerprint"] = "sha256:" + "0" * 64
    (whole / "base_model.json").write_text(json.dumps(document))
    with pytest.raises(mlflow.MlflowException, match="has other weights"):
        client.create_model_version("summary", str(whole))
    assert list(client.search_model_versions("name = 'summary'")) == []


def test_another_base_that_was_allowed_is_told_of(save, adapters, bases, caplog, tmp_path):
    """In the log, and in the history where the version is from a registry."""
    with Registry.open() as registry:
        registry.register("summary", adapters(), base=bases("gpt2"))
    other = shutil.copytree(bases("gpt2"), tmp_path / "other")
    models.change_weights(other)
    config = {"base_model": str(other), "allow_base_mismatch": True}
    model = flavor.load_model("dovetail://summary/1", model_config=config)
    assert model.adapter.base_mismatch
    assert "attached summary/1" in caplog.text
    with Registry.open() as registry:
        assert registry.history("summary")[-1].action == "base-mismatch"
    caplog.clear()
    assert flavor.load_model(save(), model_config=config).adapter.base_mismatch
    assert "as asked for" in caplog.text


def test_one_base_goes_before_the_next_is_opened(save, bases, adapters, tmp_path):
    """Both need not fit into memory."""
    flavor.save_model(adapters("t5"), tmp_path / "t5")
    model = flavor.load_model(save())
    gone = weakref.ref(model.base.model)
    del model
    gc.collect()
    assert gone() is not None
    kept = flavor.load_model(str(tmp_path / "t5"))
    gc.collect()
    assert gone() is None
    assert kept.predict(TEXTS)


def test_a_base_is_asked_for_by_name_in_the_registry_that_mlflow_names(save, moved, tmp_path):
    """As references are: MLflow's registry URI goes before Dovetail's own settings."""
    base, place = moved(), save()
    uri = f"sqlite:///{tmp_path / 'team.db'}"
    with Registry.open(uri, (tmp_path / "objects").as_uri()) as registry:
        registry.register_base(base, name="team-base")
    with pytest.raises(BaseModelNotFound):
        flavor.load_model(place, model_config={"base_model": "team-base"})
    mlflow.set_registry_uri(f"dovetail+{uri}?objects_url={(tmp_path / 'objects').as_uri()}")
    assert flavor.load_model(place, model_config={"base_model": "team-base"}).predict(TEXTS)


def test_an_empty_folder_where_a_base_was_is_passed_over(save, moved):
    """As a volume that is not mounted is: the registry may know another place."""
    base = moved()
    place, elsewhere = save(base_model=base), base.with_name("elsewhere")
    base.rename(elsewhere)
    base.mkdir()
    with pytest.raises(BaseModelNotFound, match="say where it is with model_config"):
        flavor.load_model(place)
    with Registry.open() as registry:
        registry.register_base(elsewhere)
    assert flavor.load_model(place).predict(TEXTS)


def test_device_is_mlflows_where_nothing_else_is_said(save, monkeypatch):
    """MLFLOW_DEFAULT_PREDICTION_DEVICE is read as by MLflow's own flavors."""
    place = save()
    for named in ("cpu", "-1"):
        monkeypatch.setenv("MLFLOW_DEFAULT_PREDICTION_DEVICE", named)
        assert flavor.load_model(place).base.model.device.type == "cpu"


def test_fresh_process_loads_without_a_registry(bases, adapters, save, tmp_path):
    """Nothing but the model's directory and the base is needed."""
    place = save()
    code = (
        "import json, sys, mlflow\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "print(json.dumps(model.predict(json.loads(sys.argv[2]), params={'max_new_tokens': 6})))\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code, place, json.dumps(TEXTS)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert json.loads(done.stdout) == models.expected(bases("gpt2"), adapters(), TEXTS)
    assert not list((tmp_path / "home").rglob("registry.db"))
