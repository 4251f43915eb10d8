"""Finding the adapter in a directory: the flavor's own, MLflow's of PEFT models, plain ones."""

import json
import subprocess
import sys

import pytest
import yaml

from dovetail.errors import InvalidInput
from dovetail.plugins.mlflow.saved import read_saved

OWN = {
    "adapter": "adapter",
    "base_model": {"name": "tiny", "revision": "abc", "fingerprint": "sha256:1", "location": "/x"},
    "reference": "chat/1",
    "payload_digest": "sha256:2",
    "task": "summarization",
    "input_template": "Summarise: {text}",
    "generation_config": {"max_new_tokens": 8},
    "hyperparameters": {"r": 2},
}
TRANSFORMERS = {
    "peft_adaptor": "peft",
    "source_model_name": "org/tiny",
    "source_model_revision": "abc",
    "task": "text-generation",
}


def describe(directory, **flavors):
    """Write an MLmodel file."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors}))
    return directory


def test_model_of_the_flavor_tells_all(make, tmp_path):
    """What is in MLmodel and beside it comes back."""
    model = describe(tmp_path / "model", dovetail=OWN, python_function={})
    make.lora(model / "adapter")
    (model / "base_model.json").write_text(json.dumps({"format": "some"}))
    saved = read_saved(model)
    assert saved.payload == model / "adapter"
    base = (saved.base_name, saved.base_revision, saved.base_fingerprint, saved.base_location)
    assert base == ("tiny", "abc", "sha256:1", "/x")
    assert saved.base_document == {"format": "some"}
    assert (saved.reference, saved.payload_digest) == ("chat/1", "sha256:2")
    assert (saved.task, saved.input_template) == ("summarization", "Summarise: {text}")
    assert (saved.generation_config, saved.hyperparameters) == ({"max_new_tokens": 8}, {"r": 2})


def test_peft_model_of_mlflows_transformers_flavor_is_read(make, tmp_path):
    """MLflow keeps a PEFT model's adapter in a folder, and its base by name and revision."""
    model = describe(tmp_path / "model", transformers=TRANSFORMERS)
    make.lora(model / "peft")
    saved = read_saved(model)
    assert saved.payload == model / "peft"
    assert (saved.base_name, saved.base_revision) == ("org/tiny", "abc")
    assert saved.task == "text-generation"
    assert saved.base_fingerprint is saved.base_document is saved.reference is None


def test_plain_directory_is_read(make, tmp_path):
    """What PEFT wrote says only the base's name; a directory is its place, too."""
    base = tmp_path / "base"
    base.mkdir()
    saved = read_saved(make.lora(tmp_path / "adapter", base_model_name_or_path=str(base)))
    assert (saved.base_name, saved.base_location) == (str(base), str(base))
    assert saved.payload == tmp_path / "adapter"
    named = read_saved(make.lora(tmp_path / "named", revision="abc"))
    assert (named.base_name, named.base_revision, named.base_location) == ("tiny", "abc", None)


def test_one_folder_below_is_found(make, tmp_path):
    """The artifacts of a run hold the adapter in a folder."""
    make.lora(tmp_path / "run" / "checkpoint")
    (tmp_path / "run" / "plots").mkdir()
    assert read_saved(tmp_path / "run").payload == tmp_path / "run" / "checkpoint"
    model = describe(tmp_path / "other" / "model", dovetail=OWN)
    make.lora(model / "adapter")
    assert read_saved(tmp_path / "other").reference == "chat/1"


def test_several_adapters_are_an_error_that_names_them(make, tmp_path):
    """Nobody guesses which checkpoint was meant."""
    for step in (100, 200):
        make.lora(tmp_path / f"checkpoint-{step}")
    with pytest.raises(InvalidInput, match="checkpoint-100, checkpoint-200"):
        read_saved(tmp_path)


def test_directory_without_an_adapter_gives_none(tmp_path):
    """Other models, other libraries' adapters, files and nothing at all are none."""
    (tmp_path / "file").write_text("x")
    other = tmp_path / "adapter-hub"
    other.mkdir()
    (other / "adapter_config.json").write_text('{"config": {"reduction_factor": 16}}')
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{")
    describe(tmp_path / "sklearn", sklearn={"pickled_model": "model.pkl"})
    describe(tmp_path / "pipeline", transformers={**TRANSFORMERS, "peft_adaptor": "gone"})
    for name in ("file", "adapter-hub", "broken", "sklearn", "pipeline", "nowhere"):
        assert read_saved(tmp_path / name) is None, name


@pytest.mark.parametrize("place", ["../secret", "/etc", None, "a\\b"])
def test_adapter_outside_of_the_model_is_refused(place, tmp_path):
    """An MLmodel file from a stranger cannot point anywhere else."""
    model = describe(tmp_path / "model", dovetail={**OWN, "adapter": place})
    with pytest.raises(InvalidInput, match="no directory inside it"):
        read_saved(model)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("flavors: [", "is no MLmodel file"),
        ("- 1", "lists no flavors"),
        ("flavors: {dovetail: 3}", "lists no flavors"),
        ("flavors: {dovetail: {adapter: adapter, base_model: [1]}}", "it must be a table"),
        ("flavors: {dovetail: {adapter: adapter}}", "holds none"),
        ("!!python/object/apply:os.system ['true']", "is no MLmodel file"),
    ],
)
def test_damaged_description_is_an_error(text, match, tmp_path):
    """A model of the flavor that cannot be read is not taken for something else."""
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(InvalidInput, match=match):
        read_saved(tmp_path)


def test_damaged_document_of_the_base_is_an_error(make, tmp_path):
    """base_model.json has to be a JSON object."""
    model = describe(tmp_path / "model", dovetail=OWN)
    make.lora(model / "adapter")
    (model / "base_model.json").write_text("[]")
    with pytest.raises(InvalidInput, match="is no JSON object"):
        read_saved(model)


def test_importing_mlflow_loads_neither_torch_nor_the_loader():
    """MLflow imports its plugins whenever it is imported itself; that stays cheap and quiet."""
    code = (
        "import sys, warnings; warnings.simplefilter('error', UserWarning); import mlflow\n"
        "from mlflow.store.artifact import artifact_repository_registry as known\n"
        "assert 'dovetail' in known.get_registered_artifact_repositories()\n"
        "heavy = {'torch', 'transformers', 'peft', 'dovetail.loader', 'dovetail.registry.store'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "[]"
