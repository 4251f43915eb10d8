"""The callback registers what a real Trainer trained, and nothing that it should not."""

import json
import shutil

import mlflow
import pytest
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from dovetail.demo import BASE_DIRECTORY
from dovetail.errors import (
    BaseModelNotFound,
    ConflictError,
    IncompatibleBaseModel,
    InvalidInput,
    InvalidPayload,
    InvalidReference,
    StorageError,
)
from dovetail.plugins.transformers import DovetailCallback
from dovetail.registry.fingerprint import read_base
from dovetail.registry.store import Registry

# PEFT asks for what transformers has since renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

ROWS = [{"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]} for _ in range(4)]


@pytest.fixture
def registry(tmp_path):
    """A registry of its own."""
    place = tmp_path / "registry"
    place.mkdir()
    with Registry.open(
        f"sqlite:///{place / 'registry.db'}",
        (place / "objects").as_uri(),
        cache_dir=place / "cache",
        actor="tester",
    ) as opened:
        yield opened


@pytest.fixture
def base(tmp_path):
    """A copy of the demo's base that a test may change."""
    return shutil.copytree(BASE_DIRECTORY, tmp_path / "base")


@pytest.fixture(scope="module")
def mlflow_tracking(tmp_path_factory):
    """MLflow on a database of its own."""
    place = tmp_path_factory.mktemp("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{place / 'mlflow.db'}")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("e", (place / "files").as_uri()))
    yield
    mlflow.set_tracking_uri(None)


def lora_config(**changes):
    """Return a small LoRA."""
    settings = {"task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"], **changes}
    return LoraConfig(**settings)


def train(base, callback, tmp_path, *, config=None, model=None, others=(), rows=ROWS, **changes):
    """Train for two steps and return the Trainer."""
    if model is None:
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config or lora_config())
    settings = {
        "output_dir": str(tmp_path / "runs"),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.01,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": 3,
        **changes,
    }
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**settings),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=lambda _: {"rougeL": 0.25, "broken": float("nan")},
        callbacks=[callback, *others],
    )
    trainer.train()
    return trainer


def test_adapter_is_registered_with_all_that_is_known(base, registry, tmp_path):
    """A run gives version 1 with base, hyperparameters, reported scores and template."""
    callback = DovetailCallback(
        "chat",
        registry=registry,
        task="summarization",
        input_template="Summarise: {dialogue}",
        generation_config={"max_new_tokens": 32},
        hyperparameters={"corpus": "demo"},
        tags={"team": "docs"},
        description="Short.",
    )
    train(base, callback, tmp_path)
    version = callback.registration.version
    assert callback.registration.created
    assert str(version.reference) == "chat/1"
    assert version.base_model == read_base(base).manifest.fingerprint
    assert version.task == "summarization"
    assert version.input_template == "Summarise: {dialogue}"
    assert version.generation_config == {"max_new_tokens": 32}
    assert version.source_run is None
    assert version.peft_type == "LORA"
    expected = {
        "learning_rate": 0.01,
        "lr_scheduler_type": "linear",
        "train_batch_size": 2,
        "global_step": 2,
        "epochs": 1.0,
        "seed": 3,
        "precision": "fp32",
        "r": 2,
        "target_modules": ["q_proj"],
        "corpus": "demo",
    }
    assert expected.items() <= dict(version.hyperparameters).items()
    assert version.hyperparameters["train_loss"] > 0
    assert json.loads(json.dumps(dict(version.hyperparameters))) == version.hyperparameters
    (evaluation,) = registry.evaluations("chat/1")
    assert evaluation.kind == "reported"
    assert set(evaluation.scores) == {"loss", "rougeL"}
    assert evaluation.scores["rougeL"].value == 0.25
    assert registry.adapter("chat").tags == {"team": "docs"}


def test_nothing_is_left_in_the_output_directory(base, registry, tmp_path):
    """What was saved for registering is removed once it is registered."""
    train(base, DovetailCallback("chat", registry=registry), tmp_path)
    assert list((tmp_path / "runs").iterdir()) == []


def test_soft_prompt_is_registered(base, registry, tmp_path):
    """Prompt tuning goes the same way, with the number of virtual tokens."""
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    callback = DovetailCallback("chat", registry=registry)
    train(base, callback, tmp_path, config=config)
    version = callback.registration.version
    assert version.peft_type == "PROMPT_TUNING"
    assert version.hyperparameters["num_virtual_tokens"] == 3
    assert version.parameter_count == 3 * 96


def test_registered_files_are_the_trained_ones(base, registry, tmp_path):
    """What is pulled holds the weights that the model has after training."""
    callback = DovetailCallback("chat", registry=registry)
    model = train(base, callback, tmp_path).model
    pulled = load_file(registry.pull("chat/1") / "adapter_model.safetensors")
    trained = {
        name.replace(".default", ""): tensor.detach().numpy()
        for name, tensor in model.named_parameters()
        if "lora_" in name
    }
    assert pulled.keys() == trained.keys()
    assert all((pulled[name] == trained[name]).all() for name in trained)


def test_adapter_with_another_name_in_peft(base, registry, tmp_path):
    """An adapter that PEFT calls something else than 'default' is found where PEFT saves it."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), lora_config(), adapter_name="second"
    )
    callback = DovetailCallback("chat", registry=registry)
    train(base, callback, tmp_path, model=model)
    assert callback.registration.version.number == 1


def test_registry_of_the_environment(base, tmp_path, monkeypatch):
    """Without a registry, the one that the environment names is used."""
    monkeypatch.setenv("DOVETAIL_DATABASE_URL", f"sqlite:///{tmp_path / 'r.db'}")
    monkeypatch.setenv("DOVETAIL_OBJECTS_URL", (tmp_path / "objects").as_uri())
    monkeypatch.setenv("DOVETAIL_CACHE_DIR", str(tmp_path / "cache"))
    train(base, DovetailCallback("chat"), tmp_path)
    with Registry.open() as registry:
        assert registry.resolve("chat@latest").number == 1


@pytest.mark.usefixtures("mlflow_tracking")
def test_active_mlflow_run_is_recorded(base, registry, tmp_path):
    """The version names the MLflow run that was active while it was trained."""
    callback = DovetailCallback("chat", registry=registry)
    with mlflow.start_run() as run:
        train(base, callback, tmp_path)
    assert callback.registration.version.source_run == run.info.run_id


@pytest.mark.usefixtures("mlflow_tracking")
def test_run_that_mlflow_callback_ends_is_recorded(base, registry, tmp_path, monkeypatch):
    """A run that Trainer's own MLflow callback opens and closes is recorded too."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "e")
    callback = DovetailCallback("chat", registry=registry)
    train(base, callback, tmp_path, report_to="mlflow")
    assert mlflow.active_run() is None
    run = mlflow.last_active_run()
    assert callback.registration.version.source_run == run.info.run_id


def test_scores_of_the_best_checkpoint(base, registry, tmp_path):
    """With load_best_model_at_end the scores and the step are those of the best checkpoint."""
    callback = DovetailCallback("chat", registry=registry)
    trainer = train(
        base,
        callback,
        tmp_path,
        max_steps=3,
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        learning_rate=5.0,
    )
    best = trainer.state.best_global_step
    assert callback.registration.version.hyperparameters["best_step"] == best
    (evaluation,) = registry.evaluations("chat/1")
    assert evaluation.scores["loss"].value == pytest.approx(trainer.state.best_metric)


def test_scores_of_an_earlier_step_are_left_out(base, registry, tmp_path, caplog):
    """An evaluation before the last step speaks of other weights, and is not recorded."""
    callback = DovetailCallback("chat", registry=registry)
    train(base, callback, tmp_path, eval_on_start=True, eval_strategy="no")
    assert registry.evaluations("chat/1") == []
    assert "its scores are not recorded" in caplog.text


def test_scores_that_are_no_numbers_are_left_out(base, registry, tmp_path, caplog):
    """A NaN among the metrics costs that metric, not the registration."""
    train(base, DovetailCallback("chat", registry=registry), tmp_path)
    assert "'broken'" in caplog.text


def test_changed_base_is_refused_before_the_first_step(base, registry, tmp_path):
    """A model whose weights are not those of the checkpoint is noticed before training."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora_config())
    weights = load_file(base / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] += 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    steps = []
    model.register_forward_hook(lambda *_: steps.append(1))
    with pytest.raises(IncompatibleBaseModel, match=r"layers\.1\.mlp\.up_proj\.weight"):
        train(base, DovetailCallback("chat", registry=registry), tmp_path, model=model)
    assert steps == []


def test_changed_base_can_be_allowed(base, registry, tmp_path):
    """With allow_base_mismatch it goes on, and the version says how the weights differ."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora_config())
    model.get_input_embeddings().weight.data[0, 0] += 1
    callback = DovetailCallback("chat", registry=registry, allow_base_mismatch=True)
    train(base, callback, tmp_path, model=model)
    assert "embed_tokens" in callback.registration.version.hyperparameters["base_mismatch"]


def test_base_that_training_changed_is_refused(base, registry, tmp_path):
    """Weights of the base that moved during training stop the registration, not the saving."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora_config())
    model.get_submodule("base_model.model.model.norm").weight.requires_grad_(True)
    with pytest.raises(IncompatibleBaseModel, match=r"norm\.weight") as caught:
        train(base, DovetailCallback("chat", registry=registry), tmp_path, model=model)
    assert "The trained adapter is kept in" in str(caught.value)


def test_failed_registration_keeps_the_adapter(base, registry, tmp_path):
    """An error at the end reaches the user and says where the trained adapter is."""
    other = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora_config())
    other.save_pretrained(tmp_path / "other")

    class Racer(TrainerCallback):
        """Somebody who takes the name for another task during the training."""

        def on_step_end(self, *_, **__):
            registry.register("chat", tmp_path / "other", base=base, task="translation")

    callback = DovetailCallback("chat", registry=registry, task="summarization")
    with pytest.raises(ConflictError) as caught:
        train(base, callback, tmp_path, others=[Racer()])
    kept = caught.value.adapter
    assert f"The trained adapter is kept in {kept}" in str(caught.value)
    assert f"dovetail register chat {kept} --base {base} --task summ" in str(caught.value)
    assert callback.registration is None
    assert registry.register("chat", kept, base=base, task="translation").created


def test_classifier_with_a_new_head(base, registry, tmp_path):
    """A head that the base does not have is the adapter's; the task follows from PEFT's."""
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    rows = [{"input_ids": [5, 6, 7, 8], "labels": 1} for _ in range(4)]
    callback = DovetailCallback("topics", registry=registry)
    train(
        base,
        callback,
        tmp_path,
        model=get_peft_model(model, lora_config(task_type="SEQ_CLS")),
        rows=rows,
    )
    assert callback.registration.version.task == "text-classification"


def test_model_without_adapter_is_refused(base, registry, tmp_path):
    """A model that is no PeftModel is refused with what to do about it."""
    model = AutoModelForCausalLM.from_pretrained(base)
    with pytest.raises(InvalidInput, match="get_peft_model"):
        train(base, DovetailCallback("chat", registry=registry), tmp_path, model=model)


def test_unregistrable_adapter_is_refused_before_training(base, registry, tmp_path):
    """A kind of adapter that registering refuses is refused at the first step."""
    with pytest.raises(InvalidPayload, match="bias"):
        train(
            base,
            DovetailCallback("chat", registry=registry),
            tmp_path,
            config=lora_config(bias="all"),
        )


def test_task_of_another_is_refused_before_training(base, registry, tmp_path):
    """A name that stands for another task is refused at the first step."""
    train(base, DovetailCallback("chat", registry=registry, task="translation"), tmp_path)
    with pytest.raises(ConflictError, match="'translation', not 'summarization'"):
        train(base, DovetailCallback("chat", registry=registry, task="summarization"), tmp_path)


def test_missing_base_is_refused_before_training(base, registry, tmp_path):
    """A base that is not on this machine is asked for at the first step."""
    callback = DovetailCallback("chat", registry=registry, base=tmp_path / "nowhere")
    with pytest.raises(BaseModelNotFound, match="nowhere"):
        train(base, callback, tmp_path)


def test_registry_that_cannot_be_opened_is_noticed_before_training(base, tmp_path, monkeypatch):
    """A registry that is not there is noticed at the first step."""
    monkeypatch.setenv("DOVETAIL_DATABASE_URL", "sqlite:////proc/nowhere/registry.db")
    with pytest.raises(StorageError):
        train(base, DovetailCallback("chat"), tmp_path)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": "no spaces"}, InvalidReference),
        ({"name": "chat", "task": "Summarize it"}, InvalidInput),
        ({"name": "chat", "tags": {"a": 1}}, InvalidInput),
        ({"name": "chat", "generation_config": {"a": float("nan")}}, InvalidInput),
    ],
)
def test_bad_settings_are_refused_when_they_are_given(changes, error):
    """What can never be registered is refused when the callback is made."""
    with pytest.raises(error):
        DovetailCallback(**changes)
