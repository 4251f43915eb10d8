"""The flavor: what is saved, what comes back, and that both are the same adapter."""

import importlib.util
import json
import shutil

import flavor_models as models
import mlflow
import numpy as np
import pandas as pd
import peft
import pytest
import yaml

import dovetail.plugins.mlflow as flavor
from dovetail.errors import (
    BaseModelNotFound,
    IncompatibleBaseModel,
    InvalidInput,
    InvalidPayload,
    InvalidReference,
    VersionNotFound,
)
from dovetail.plugins.mlflow.saved import read_saved
from dovetail.registry.fingerprint import read_base
from dovetail.registry.store import Registry

bases, adapters, moved, one_thread = models.bases, models.adapters, models.moved, models.one_thread
TEXTS, NEW = list(models.TEXTS), models.NEW
pytestmark = models.IGNORED


def flavor_of(directory):
    """Return what an MLmodel file says of the flavor."""
    return yaml.safe_load((directory / "MLmodel").read_text())["flavors"]["dovetail"]


def contents(directory):
    """Return the bytes of each file in a directory."""
    return {file.name: file.read_bytes() for file in directory.iterdir()}


@pytest.mark.parametrize("base", ["gpt2", "t5"])
@pytest.mark.parametrize("kind", models.KINDS)
def test_saved_adapter_answers_as_the_loader_does(base, kind, bases, adapters, tmp_path):
    """What was saved and loaded again writes the tokens of the loader, natively and as pyfunc."""
    adapter = adapters(base, kind)
    flavor.save_model(adapter, tmp_path / "model")
    texts = models.expected(bases(base), adapter, TEXTS)
    params = {"max_new_tokens": NEW}
    assert mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(TEXTS, params=params) == texts
    native = flavor.load_model(str(tmp_path / "model"))
    assert [answer.text for answer in native.generate(TEXTS, **params)] == texts


def test_only_the_adapter_is_saved(bases, adapters, tmp_path):
    """The payload is there byte for byte, the base only by name, fingerprint and manifest."""
    path, adapter = tmp_path / "model", adapters()
    flavor.save_model(
        adapter,
        path,
        task="summarization",
        input_template="Summarise: {text}",
        hyperparameters={"epochs": 3},
    )
    assert contents(path / "adapter") == {
        name: data
        for name, data in contents(adapter).items()
        if name in {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    }
    checkpoint = read_base(bases("gpt2"))
    said = flavor_of(path)
    assert said["base_model"] == {
        "name": "gpt2",
        "revision": None,
        "fingerprint": checkpoint.manifest.fingerprint,
        "location": str(bases("gpt2")),
    }
    assert said["peft_type"] == "LORA"
    assert (said["hyperparameters"]["r"], said["hyperparameters"]["epochs"]) == (4, 3)
    assert (said["task"], said["input_template"]) == ("summarization", "Summarise: {text}")
    document = json.loads((path / "base_model.json").read_text())
    assert document["base_model"]["fingerprint"] == checkpoint.manifest.fingerprint
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert size < (bases("gpt2") / "model.safetensors").stat().st_size


def test_document_of_the_base_lets_a_registry_take_the_adapter(adapters, tmp_path):
    """A registry that never saw the base registers what was saved."""
    flavor.save_model(adapters(), tmp_path / "model")
    saved = read_saved(tmp_path / "model")
    with Registry.open() as registry:
        base = registry.register_base_document(saved.base_document)
        version = registry.register("chat", saved.payload, base=base.fingerprint).version
    assert version.base_model == saved.base_fingerprint
    assert version.payload_digest == saved.payload_digest


def test_live_model_is_saved_as_peft_would(bases, tmp_path):
    """A PeftModel's active adapter is saved; the base is the one it was loaded from."""
    model = models.train(bases("gpt2"), models.config_of("gpt2", "lora"))
    with models.quiet():
        model.save_pretrained(tmp_path / "peft")
    flavor.save_model(model, tmp_path / "model")
    written = contents(tmp_path / "peft")
    del written["README.md"]  # a form that nobody has filled in
    assert contents(tmp_path / "model" / "adapter") == written
    assert read_saved(tmp_path / "model").base_location == str(bases("gpt2"))


def test_named_adapter_of_a_live_model_is_saved(bases, tmp_path):
    """Of several adapters the active one is saved, whatever it is called."""
    model = models.train(bases("gpt2"), models.config_of("gpt2", "lora"))
    second = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["c_proj"])
    with models.quiet():
        model.add_adapter("second", second)
    model.set_adapter("second")
    flavor.save_model(model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["target_modules"]) == (2, ["c_proj"])


def test_live_model_with_other_weights_is_refused(moved, tmp_path):
    """A model whose frozen weights are not those of its checkpoint is not saved, unless by name."""
    base = moved()
    model = models.train(base, models.config_of("gpt2", "lora"))
    models.change_weights(base)
    with pytest.raises(IncompatibleBaseModel, match="tensors match"):
        flavor.save_model(model, tmp_path / "model")
    flavor.save_model(model, tmp_path / "allowed", allow_base_mismatch=True)
    assert read_saved(tmp_path / "allowed").base_fingerprint == read_base(base).manifest.fingerprint


def test_registered_version_is_saved_with_what_the_registry_knows(bases, adapters, tmp_path):
    """A reference brings template, generation defaults and hyperparameters with it."""
    with Registry.open() as registry:
        registry.register(
            "chat",
            adapters(),
            base=bases("gpt2"),
            task="summarization",
            hyperparameters={"r": 4},
            input_template="w5 {text}",
            generation_config={"max_new_tokens": 3},
        )
        registry.promote("chat/1", "production")
    for number, reference in enumerate(("chat@production", "chat/1", "dovetail://chat/1")):
        flavor.save_model(reference, tmp_path / str(number))
        saved = read_saved(tmp_path / str(number))
        assert (saved.reference, saved.task) == ("chat/1", "summarization")
        assert saved.input_template == "w5 {text}"
        assert saved.hyperparameters == {"r": 4}
    answer = mlflow.pyfunc.load_model(str(tmp_path / "0")).predict(["w3 w4"])
    adapter = adapters()
    assert answer == models.expected(bases("gpt2"), adapter, ["w5 w3 w4"], max_new_tokens=3)


def test_registered_version_takes_no_other_template(bases, adapters, tmp_path):
    """What was recorded at registration cannot be said otherwise when it is saved."""
    with Registry.open() as registry:
        registry.register("chat", adapters(), base=bases("gpt2"))
    with pytest.raises(InvalidInput, match="input_template, base_model were settled"):
        flavor.save_model(
            "chat/1", tmp_path / "model", input_template="{text}", base_model=bases("gpt2")
        )
    for option in ({"base_revision": "main"}, {"allow_base_mismatch": True}, {"exclude": ["*.md"]}):
        with pytest.raises(InvalidInput, match=next(iter(option))):
            flavor.save_model("chat/1", tmp_path / "model", **option)


def test_model_can_be_saved_again(adapters, tmp_path):
    """The directory of a saved model is an adapter, too, and its base need not be there."""
    flavor.save_model(adapters(), tmp_path / "one", input_template="w5 {text}")
    flavor.save_model(tmp_path / "one", tmp_path / "two")
    one, two = flavor_of(tmp_path / "one"), flavor_of(tmp_path / "two")
    assert one == two


@pytest.mark.parametrize(
    ("adapter", "error", "match"),
    [
        (3, InvalidInput, "the adapter is a int; give a PeftModel"),
        ("nowhere", InvalidReference, "'nowhere' is no directory, and 'nowhere' names an adapter"),
        ("chat/7", VersionNotFound, "chat"),
    ],
)
def test_what_is_no_adapter_is_refused(adapter, error, match, bases, adapters, tmp_path):
    """The message says what can be given instead."""
    with Registry.open() as registry:
        registry.register("chat", adapters(), base=bases("gpt2"))
    with pytest.raises(error, match=match):
        flavor.save_model(adapter, tmp_path / "model")


def test_directory_without_an_adapter_is_refused(tmp_path):
    """The message names the directory."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="empty' holds no adapter"):
        flavor.save_model(tmp_path / "empty", tmp_path / "model")


def test_pickles_are_refused_unless_left_out(adapters, tmp_path):
    """A training checkpoint's pickles are named, and can be left out by pattern."""
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    for name, data in contents(adapters()).items():
        (checkpoint / name).write_bytes(data)
    (checkpoint / "optimizer.pt").write_bytes(b"anything")
    with pytest.raises(InvalidPayload, match=r"optimizer\.pt"):
        flavor.save_model(checkpoint, tmp_path / "model")
    flavor.save_model(checkpoint, tmp_path / "other", exclude=["optimizer.pt"])


def test_wrong_base_is_refused_at_saving(bases, adapters, tmp_path):
    """An adapter is not saved for a base that its tensors do not fit."""
    with pytest.raises(IncompatibleBaseModel):
        flavor.save_model(adapters("gpt2"), tmp_path / "model", base_model=bases("t5"))


def test_base_that_is_nowhere_is_named(adapters, tmp_path):
    """Without the base on this machine there is no fingerprint, and the message says where to."""
    with pytest.raises(BaseModelNotFound, match="not in the local hub cache"):
        flavor.save_model(adapters(), tmp_path / "model", base_model="nobody/nothing")


def test_base_is_found_by_its_registered_name(bases, adapters, tmp_path):
    """A name or fingerprint of the registry stands for the directory that it knows."""
    with Registry.open() as registry:
        base = registry.register_base(bases("gpt2"), name="our-gpt")
    for number, name in enumerate(("our-gpt", base.fingerprint)):
        flavor.save_model(adapters(), tmp_path / str(number), base_model=name)
        assert read_saved(tmp_path / str(number)).base_fingerprint == base.fingerprint


def test_path_that_is_taken_is_refused(adapters, tmp_path):
    """As in MLflow's flavors, nothing is written over."""
    flavor.save_model(adapters(), tmp_path / "model")
    with pytest.raises(mlflow.exceptions.MlflowException, match="already exists"):
        flavor.save_model(adapters(), tmp_path / "model")


def test_environment_is_pinned_and_has_no_torchvision(adapters, tmp_path):
    """Default requirements are what is installed, without build labels; they can be replaced."""
    default = flavor.get_default_pip_requirements()
    assert all("==" in requirement and "+" not in requirement for requirement in default)
    assert {requirement.partition("==")[0] for requirement in default} == {
        "dovetail[loader]",
        "torch",
        "transformers",
        "peft",
        "safetensors",
    }
    flavor.save_model(adapters(), tmp_path / "model", extra_pip_requirements=["sacrebleu"])
    written = (tmp_path / "model" / "requirements.txt").read_text().splitlines()
    assert written == [f"mlflow=={mlflow.__version__}", *default, "sacrebleu"]
    flavor.save_model(adapters(), tmp_path / "own", pip_requirements=["dovetail", "mlflow"])
    assert (tmp_path / "own" / "requirements.txt").read_text().splitlines() == [
        "dovetail",
        "mlflow",
    ]
    assert "dovetail[loader]" in str(flavor.get_default_conda_env())


def test_signature_says_what_comes_out_and_names_the_params(adapters, tmp_path):
    """No inputs are named, so that tables and lists are taken; the example shows the columns."""
    flavor.save_model(adapters(), tmp_path / "model", input_template="{who} asks: {what}")
    info = mlflow.models.get_model_info(str(tmp_path / "model"))
    assert info.signature.inputs is None
    assert [column.type.name for column in info.signature.outputs] == ["string"]
    names = [param.name for param in info.signature.params]
    assert names[:2] == ["max_new_tokens", "do_sample"]
    assert names[-2:] == ["seed", "batch_size"]
    example = mlflow.pyfunc.load_model(str(tmp_path / "model")).input_example
    pd.testing.assert_frame_equal(example, pd.DataFrame([{"who": "<who>", "what": "<what>"}]))


def test_signature_follows_an_input_example(adapters, tmp_path):
    """Columns of an example are enforced, an adapter column may stand beside them."""
    example = (pd.DataFrame({"text": ["w3"]}), {"max_new_tokens": 4, "repetition_penalty": 1.5})
    flavor.save_model(adapters(), tmp_path / "model", input_example=example)
    signature = mlflow.models.get_model_info(str(tmp_path / "model")).signature
    columns = {column.name: column.required for column in signature.inputs}
    assert columns == {"text": True, "adapter": False}
    defaults = {param.name: param.default for param in signature.params}
    assert (defaults["max_new_tokens"], defaults["top_k"]) == (4, None)
    assert defaults["repetition_penalty"] == 1.5


def test_logged_model_comes_back_from_everywhere(bases, adapters, tmp_path, monkeypatch):
    """log_model logs it as any flavor does: by model id, by run, by registered name."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.create_experiment("tests", (tmp_path / "artifacts").as_uri())
    mlflow.set_experiment("tests")
    with mlflow.start_run() as run:
        info = flavor.log_model(
            adapters(),
            name="adapter",
            registered_model_name="chat",
            input_example=["w3 w4"],
            metadata={"team": "docs"},
            tags={"stage": "trial"},
            params={"lr": 0.1},
            generation_config={"max_new_tokens": NEW},
        )
    assert info.registered_model_version == 1
    assert info.metadata == {"team": "docs"}
    logged = mlflow.get_logged_model(info.model_id)
    assert logged.params == {"lr": "0.1"}
    assert logged.tags["stage"] == "trial"
    texts = models.expected(bases("gpt2"), adapters(), TEXTS)
    for uri in (info.model_uri, f"runs:/{run.info.run_id}/adapter", "models:/chat/1"):
        assert mlflow.pyfunc.load_model(uri).predict(TEXTS) == texts
    place = tmp_path / "downloaded"
    place.mkdir()
    loaded = flavor.load_model(info.model_uri, dst_path=place)
    assert place in loaded.adapter.path.parents or loaded.adapter.path.exists()
    assert read_saved(place).payload_digest == loaded.adapter.payload_digest


def test_model_of_another_flavor_is_refused(tmp_path):
    """The message says which flavors the model has."""
    model = mlflow.pyfunc.PythonModel()
    mlflow.pyfunc.save_model(tmp_path / "model", python_model=model, pip_requirements=["mlflow"])
    with pytest.raises(mlflow.exceptions.MlflowException, match="'dovetail' flavor, but python_f"):
        flavor.load_model(str(tmp_path / "model"))


def test_code_is_copied_and_importable(adapters, tmp_path, monkeypatch):
    """code_paths go along and are on the path when the model is loaded."""
    code = tmp_path / "our_own_helpers.py"
    code.write_text("ANSWER = 42\n")
    flavor.save_model(adapters(), tmp_path / "model", code_paths=[str(code)])
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    flavor.load_model(str(tmp_path / "model"))
    assert importlib.import_module("our_own_helpers").ANSWER == 42


def test_options_that_no_call_takes_are_refused_at_saving(adapters, tmp_path):
    """Every prediction would fail, of a version that cannot be changed any more."""
    refused = (
        {"generation_config": {"max_length": 40}},
        {"input_example": (["w3"], {"max_length": 5})},
        {"input_example": (["w3"], {"max_new_tokens": 0})},
    )
    for options in refused:
        with pytest.raises(InvalidInput, match="max_"):
            flavor.save_model(adapters(), tmp_path / "model", **options)
    flavor.save_model(adapters(), tmp_path / "model", generation_config={"max_new_tokens": 4})


def test_numbers_of_numpy_are_saved_as_numbers(adapters, tmp_path):
    """What a training script has computed; a registry takes the same."""
    place = tmp_path / "model"
    flavor.save_model(adapters(), place, hyperparameters={"lr": np.float64(1e-3)})
    assert read_saved(place).hyperparameters["lr"] == 1e-3


def test_one_pattern_and_one_path_are_taken_for_what_they_are(adapters, tmp_path):
    """A text is one pattern, and a path of a file with settings need not be a text."""
    folder = shutil.copytree(adapters(), tmp_path / "adapter")
    (folder / "notes.md").write_text("mine")
    config = tmp_path / "config.yaml"
    config.write_text("max_new_tokens: 3\n")
    flavor.save_model(folder, tmp_path / "model", exclude="*.md", model_config=config)
    assert not (tmp_path / "model" / "adapter" / "notes.md").exists()
    assert (tmp_path / "model" / "adapter" / "adapter_config.json").exists()
