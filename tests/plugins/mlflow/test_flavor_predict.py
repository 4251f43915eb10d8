"""What a loaded model takes and answers: shapes of input, the adapter column, params, bad rows."""

import re
from concurrent.futures import ThreadPoolExecutor

import flavor_models as models
import mlflow
import numpy as np
import pandas as pd
import peft
import pytest
from mlflow.exceptions import MlflowException
from transformers import AutoModel, AutoModelForSequenceClassification

import dovetail.plugins.mlflow as flavor
from dovetail.errors import InvalidInput
from dovetail.loader import Row, open_base
from dovetail.plugins.mlflow.bases import KEPT_VERSIONS
from dovetail.registry.store import Registry

bases, adapters, moved, one_thread = models.bases, models.adapters, models.moved, models.one_thread
TEXTS, NEW = list(models.TEXTS), models.NEW
PARAMS = {"max_new_tokens": NEW}
pytestmark = models.IGNORED


@pytest.fixture
def load(adapters, tmp_path):
    """Give a function that saves an adapter and loads it as pyfunc."""

    def run(adapter=None, **options):
        place = tmp_path / "model"
        flavor.save_model(adapters() if adapter is None else adapter, place, **options)
        return mlflow.pyfunc.load_model(str(place))

    return run


@pytest.fixture
def registered(bases, adapters):
    """Two versions of one name, with templates and generation defaults of their own."""
    with Registry.open() as registry:
        for seed, options in enumerate(
            (
                {"input_template": "w7 {text}", "generation_config": {"max_new_tokens": 2}},
                {"input_template": "{text} w9", "generation_config": {"max_new_tokens": 4}},
            ),
            start=1,
        ):
            registry.register("chat", adapters(seed=seed), base=bases("gpt2"), **options)
        registry.promote("chat/1", "production")
        yield registry


SHAPES = {
    "list": TEXTS,
    "tuple": tuple(TEXTS),
    "frame": pd.DataFrame({"text": TEXTS}),
    "frame without names": pd.DataFrame(TEXTS),
    "frame with more columns": pd.DataFrame({"id": [1, 2, 3], "text": TEXTS}),
    "column": {"text": TEXTS},
    "array": {"text": np.array(TEXTS)},
    "series": pd.Series(TEXTS),
    "rows": [{"text": text} for text in TEXTS],
    "strings of numpy": np.array(TEXTS),
    "table without names": [[text] for text in TEXTS],
}


@pytest.mark.parametrize("template", [None, "w5 {text}"])
def test_every_shape_of_input_is_taken(template, bases, adapters, load):
    """Lists, tables and dictionaries of texts give the same answers."""
    model = load(input_template=template)
    prompts = [(template or "{text}").format(text=text) for text in TEXTS]
    expected = models.expected(bases("gpt2"), adapters(), prompts)
    for name, data in SHAPES.items():
        assert model.predict(data, params=PARAMS) == expected, name
    assert model.predict(TEXTS[0], params=PARAMS) == expected[:1]
    assert model.predict({"text": TEXTS[0]}, params=PARAMS) == expected[:1]


def test_nothing_in_gives_nothing_out(load):
    """No rows are no error."""
    model = load()
    assert model.predict([]) == []
    assert model.predict(pd.DataFrame({"text": []})) == []


def test_template_takes_its_columns(bases, adapters, load):
    """A template of several columns is filled in from them, whatever else the table has."""
    model = load(input_template="{who} w6 {what}")
    expected = models.expected(bases("gpt2"), adapters(), ["w3 w6 w4"])
    assert model.predict({"what": "w4", "who": "w3", "more": "w5"}, params=PARAMS) == expected
    unnamed = pd.DataFrame([["w3", "w4"]])  # as Spark hands over columns by position
    assert model.predict(unnamed, params=PARAMS) == expected
    with pytest.raises(MlflowException, match="row 0: column 'what' is missing or null"):
        model.predict(["w3"])


def test_signature_of_an_example_is_enforced_and_works(bases, adapters, load):
    """With named columns MLflow checks the table, and the adapter column goes through."""
    model = load(input_example=pd.DataFrame({"text": ["w3"]}))
    expected = models.expected(bases("gpt2"), adapters(), TEXTS)
    for data in (
        pd.DataFrame({"text": TEXTS}),
        {"text": TEXTS},
        [{"text": text} for text in TEXTS],
    ):
        assert model.predict(data, params=PARAMS) == expected
    with pytest.raises(MlflowException, match="missing inputs"):
        model.predict(pd.DataFrame({"other": TEXTS}))


def test_adapter_column_names_other_versions(bases, adapters, registered, load):
    """Each row is answered by its adapter, with that version's template and defaults."""
    model = load(input_template="w5 {text}", generation_config={"max_new_tokens": 3})
    data = pd.DataFrame({"text": ["w3"] * 4, "adapter": ["chat@production", None, "chat/2", ""]})
    base = bases("gpt2")
    own = models.expected(base, adapters(), ["w5 w3"], max_new_tokens=3)
    first = models.expected(base, adapters(seed=1), ["w7 w3"], max_new_tokens=2)
    second = models.expected(base, adapters(seed=2), ["w3 w9"], max_new_tokens=4)
    assert model.predict(data) == [*first, *own, *second, *own]
    registered.promote("chat/2", "production")
    assert model.predict(data) == [*second, *own, *second, *own]


def test_versions_that_rows_name_do_not_pile_up(bases, adapters, load):
    """Any number in one call and from several threads; behind it those used last stay."""
    model = load()
    base, count = bases("gpt2"), KEPT_VERSIONS + 6
    names = [f"many-{number}/1" for number in range(count)]
    with Registry.open() as registry:
        for number, name in enumerate(names):
            registry.register(name.partition("/")[0], adapters(seed=1 + number % 2), base=base)
    answers = [
        models.expected(base, adapters(seed=1 + number % 2), ["w3"], max_new_tokens=NEW)[0]
        for number in range(2)
    ] * (count // 2)
    data = pd.DataFrame({"text": ["w3"] * count, "adapter": names})
    attached = model.get_raw_model().base
    assert model.predict(data, params=PARAMS) == answers
    kept = [adapter.reference for adapter in attached.attached]
    assert set(kept[1:]) == set(names[-KEPT_VERSIONS:])

    def ask(part):
        return model.predict(data[part::4], params=PARAMS) == answers[part::4]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, [0, 1, 2, 3] * 2)) == [True] * 8
    assert len(attached.attached) == 1 + KEPT_VERSIONS


def test_adapter_column_beside_enforced_columns(bases, adapters, registered, load):
    """A signature with named columns lets the adapter column through."""
    model = load(input_example=pd.DataFrame({"text": ["w3"]}))
    data = pd.DataFrame({"text": ["w3", "w3"], "adapter": ["chat/1", None]})
    first = models.expected(bases("gpt2"), adapters(seed=1), ["w7 w3"])
    own = models.expected(bases("gpt2"), adapters(), ["w3"])
    assert model.predict(data, params=PARAMS) == [*first, *own]


def test_version_of_another_base_is_refused(bases, adapters, load):
    """An adapter column cannot bring an adapter onto weights that it was not trained on."""
    with Registry.open() as registry:
        registry.register("other", adapters("t5"), base=bases("t5"))
    model = load()
    with pytest.raises(MlflowException, match="other/1 was trained on base model"):
        model.predict({"text": ["w3"], "adapter": ["other/1"]})


def test_a_row_whose_adapter_cannot_be_had_stops_no_other(bases, adapters, registered, load):
    """The message is the registry's own; predict names the rows, generate answers the others."""
    registered.register("other", adapters("t5"), base=bases("t5"))
    model = load()
    wrong = {
        "chat/7": "chat.*7",
        "gone/1": "there is no adapter 'gone'",
        "chat": "names an adapter, not a version",
        "other/1": "was trained on base model",
    }
    data = pd.DataFrame({"text": ["w3"] * 5, "adapter": [*wrong, "chat/1"]})
    with pytest.raises(MlflowException, match="4 of 5 rows cannot be answered") as caught:
        model.predict(data)
    assert caught.value.get_http_status_code() == 400
    *bad, good = model.get_raw_model().generate(data, max_new_tokens=2)
    for answer, words in zip(bad, wrong.values(), strict=True):
        assert re.search(words, answer.error)
    assert (good.error, good.index) == (None, 4)


def test_generation_settings_come_as_params(bases, adapters, load):
    """Params go before model_config, which goes before the version's own defaults."""
    model = load(
        generation_config={"max_new_tokens": 2, "num_beams": 2}, model_config={"max_new_tokens": 3}
    )
    base, adapter = bases("gpt2"), adapters()
    options = {"num_beams": 2, "max_new_tokens": 3}
    assert model.predict(TEXTS) == models.expected(base, adapter, TEXTS, **options)
    options = {"num_beams": 1, "max_new_tokens": 5, "batch_size": 2}
    assert model.predict(TEXTS, params=options) == models.expected(base, adapter, TEXTS, **options)
    options = {"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 3}
    options = {**options, "max_new_tokens": 6, "num_beams": 1}
    drawn = model.predict(TEXTS, params=options)
    assert drawn == model.predict(TEXTS, params=options)
    assert drawn == models.expected(base, adapter, TEXTS, **options)


def test_rows_that_cannot_be_answered_are_an_error_that_names_them(load):
    """Nobody takes an empty text for an answer: predict raises, with status 400."""
    model = load()
    with pytest.raises(MlflowException, match="2 of 4 rows cannot be answered") as caught:
        model.predict(["w3", "", None, "w4"])
    assert "row 1: the text '' is empty" in str(caught.value)
    assert "row 2: column '0' is missing or null" in str(caught.value)
    assert caught.value.get_http_status_code() == 400


def test_generate_goes_on_where_a_row_is_bad(load):
    """Whoever wants the others all the same asks generate, which gives the error with the row."""
    model = load().get_raw_model()
    good, bad, other = model.generate(["w3", None, "w4"], max_new_tokens=2)
    assert (good.index, good.error, good.route) == (0, None, "native")
    assert (bad.index, bad.text, bad.finish_reason) == (1, "", "error")
    assert other.adapter.payload_digest == model.adapter.payload_digest


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (3, "the input is int"),
        ([3], "the list holds int"),
        ([["w3", "w4"]], "the list holds list"),
        ({"text": ["w3", "w4"], "adapter": ["a@b"]}, "the columns are of different length"),
        (pd.DataFrame({"a": ["w3"], "b": ["w4"]}), "it has the columns 'a', 'b'"),
        (pd.DataFrame({"text": ["w3"], "adapter": [3]}), "column 'adapter' holds 3"),
        ({"text": ["w3"], "adapter": ["chat"]}, "names an adapter, not a version"),
    ],
)
def test_input_that_is_not_understood_is_refused(data, match, load):
    """The message says what the input is, and what it may be."""
    model = load()
    with pytest.raises(MlflowException, match=match) as caught:
        model.predict(data)
    assert caught.value.get_http_status_code() == 400


def test_param_out_of_range_is_refused(load):
    """A value that cannot be used is the caller's mistake, with the name of the option."""
    model = load()
    with pytest.raises(MlflowException, match="max_new_tokens of the call is 0"):
        model.predict(["w3"], params={"max_new_tokens": 0})
    with pytest.raises(MlflowException, match="Invalid parameters"):
        model.predict(["w3"], params={"max_new_tokens": "many"})


@pytest.fixture(scope="module")
def classifier(bases):
    """A live PeftModel with a head of three named classes."""
    base = bases("gpt2")
    names = {0: "sad", 1: "glad", 2: "mad"}
    with models.quiet():
        model = AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=3, id2label=names, pad_token_id=0
        )
        config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["c_attn"])
        return peft.get_peft_model(model, config).eval()


@pytest.mark.filterwarnings("ignore:Some weights of:UserWarning")
def test_classifier_answers_labels_and_scores(classifier, bases, load, tmp_path):
    """An adapter with a head answers as MLflow's text classification does."""
    model = load(classifier)
    found = model.predict(TEXTS)
    with open_base(bases("gpt2")) as base:
        base.attach_directory(tmp_path / "model" / "adapter", name="a")
        expected = list(base.classify([Row(text, "a") for text in TEXTS]))
    numbers = [max(range(3), key=answer.logits.__getitem__) for answer in expected]
    assert list(found.columns) == ["label", "score"]
    assert list(found["label"]) == [("sad", "glad", "mad")[number] for number in numbers]
    tops = [max(answer.scores.values()) for answer in expected]
    np.testing.assert_allclose(found["score"], tops, rtol=1e-5)
    assert model.get_raw_model().adapter.labels == ("sad", "glad", "mad")
    assert [column.name for column in model.metadata.signature.outputs] == ["label", "score"]
    params = [param.name for param in model.metadata.signature.params]
    assert params == ["problem_type", "batch_size"]
    assert model.predict([]).empty
    with pytest.raises(InvalidInput, match="trained to classify"):
        model.get_raw_model().generate(TEXTS)
    with pytest.raises(InvalidInput, match="batch_size and problem_type, not top_k"):
        list(model.get_raw_model()._run([{"0": "w3"}], {"top_k": 3}))


def test_embedder_answers_vectors(bases, load, tmp_path):
    """An adapter that embeds answers an array with a row per text."""
    config = peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=2, target_modules=["c_attn"])
    adapter = tmp_path / "adapter"
    with models.quiet():
        model = peft.get_peft_model(AutoModel.from_pretrained(bases("gpt2")), config)
        model.save_pretrained(adapter)
    model = load(adapter)
    found = model.predict(TEXTS)
    with open_base(bases("gpt2")) as base:
        base.attach_directory(adapter, name="a")
        expected = np.stack([one.vector for one in base.embed([Row(text, "a") for text in TEXTS])])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.dtype == np.float32
    last = model.predict(TEXTS, params={"pooling": "last"})
    assert not np.allclose(last, found)
    configured = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={"pooling": "last"})
    np.testing.assert_array_equal(configured.predict(TEXTS), last)


@pytest.mark.filterwarnings("ignore:Some weights of:UserWarning")
def test_a_classifier_keeps_what_its_outputs_mean(bases, load):
    """Of labels that may all be true, each has a probability of its own."""
    with models.quiet():
        model = AutoModelForSequenceClassification.from_pretrained(
            bases("gpt2"), num_labels=3, problem_type="multi_label_classification", pad_token_id=0
        )
        config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["c_attn"])
        live = peft.get_peft_model(model, config).eval()
    model = load(live)
    raw = model.get_raw_model()
    assert raw.adapter.problem_type == "multi_label_classification"
    found = model.predict(TEXTS)
    single = model.predict(TEXTS, params={"problem_type": "single_label_classification"})
    assert list(found["label"]) == list(single["label"])
    assert not np.allclose(found["score"], single["score"])
    assert np.allclose(
        found["score"], model.predict(TEXTS, {"problem_type": raw.adapter.problem_type})["score"]
    )
