"""What people and files may get wrong: each is told apart, and changes nothing at all.

Every case goes through the library and through the command line; the whole database and the
folder of blobs are compared before and after.
"""
# ruff: noqa: RUF001 (names that look like others are what some cases are about)

import json
import math
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from dovetail.errors import (
    BaseModelNotFound,
    ConflictError,
    IncompatibleBaseModel,
    InvalidInput,
    InvalidPayload,
    InvalidReference,
)
from dovetail.registry.payload import check_file_path

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CODES = {
    ConflictError: 4,
    InvalidPayload: 5,
    InvalidReference: 5,
    InvalidInput: 5,
    IncompatibleBaseModel: 6,
    BaseModelNotFound: 3,
}
USAGE = 2
KEEP = object()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One mistake: what is done to a sound adapter directory, and what must be said.

    Attributes:
        error: The type that is raised.
        words: A part of the message that names what is wrong, and the value.
        damage: Changes the directory; what it returns is registered instead, unless None.
        name: The adapter's name.
        options: Given to `Registry.register`.
        arguments: Given to ``dovetail register``; None if a command line cannot say this.
        code: The command's exit code, where the mistake is found by the command line itself.
        said: A part of the command's message, where it differs.
    """

    error: type[Exception] = InvalidPayload
    words: str
    damage: Callable[..., Any] | None = None
    name: str = "fresh"
    options: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] | None = ()
    code: int | None = None
    said: str | None = None


def pack(header, data=b"", *, length=None):
    """Write a safetensors file by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(start, stop, *, size=None):
    """Describe a vector of 32-bit numbers in a safetensors header."""
    shape = [(stop - start) // 4 if size is None else size]
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}


def weights(data):
    """Replace the weights by these bytes."""
    return lambda folder, _: (folder / WEIGHTS).write_bytes(data) and None


def config(data):
    """Replace the configuration by these bytes."""
    return lambda folder, _: (folder / CONFIG).write_bytes(data) and None


def keys(**change):
    """Change keys of the configuration."""
    return lambda folder, make: make.change_config(folder, **change)


def extra(name, data=b"\x80\x04."):
    """Put another file beside the adapter's own."""
    return lambda folder, _: (folder / name).write_bytes(data) and None


def without(*names):
    """Remove files."""

    def damage(folder, _):
        for name in names:
            (folder / name).unlink()

    return damage


def cut(folder, _):
    """Cut the weights off in the middle of their data."""
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-7])


def value(number):
    """Put one such number among the weights."""

    def damage(folder, make):
        tensors = {name: array.copy() for name, array in load_file(folder / WEIGHTS).items()}
        next(iter(tensors.values()))[0, 1] = number
        make.adapter(folder, json.loads((folder / CONFIG).read_text()), tensors)

    return damage


def sparse(name, size):
    """Make a file of so many bytes that takes no space."""

    def damage(folder, _):
        with (folder / name).open("wb") as file:
            file.write(b'{"peft_type": "LORA", "x": "')
            file.truncate(size)

    return damage


def big_header(folder, _):
    """Write weights whose header says, and has, a byte more than 100 MB."""
    with (folder / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001) + b"{")
        file.truncate(100_000_001 + 8)


def link(name, *, to):
    """Put a link in the directory, to a file or a directory outside it."""

    def damage(folder, _):
        outside = folder.parent / "outside"
        outside.mkdir()
        (outside / "secret").write_text("secret")
        (folder / name).symlink_to(outside if to == "directory" else outside / "secret")

    return damage


def moved_out(folder, _):
    """Move the weights out of the directory and leave a link."""
    outside = folder.parent / "weights.safetensors"
    (folder / WEIGHTS).rename(outside)
    (folder / WEIGHTS).symlink_to(outside)


def instead(builder, **options):
    """Write an adapter of another shape instead."""

    def damage(folder, make):
        return getattr(make, builder)(folder.parent / "instead", **options)

    return damage


def archive(folder, _):
    """Put a PyTorch archive, which is a zip of pickles, in place of the weights."""
    (folder / WEIGHTS).write_bytes(b"PK\x03\x04" + b"\0" * 64)


TWO = {"a": entry(0, 8), "b": entry(4, 12)}
DEEP = b'{"peft_type":' * 100_000
MODULE = {"auto_mapping": {"base_model_class": "X", "parent_library": "canary_module"}}
LONG = "n" * 10_000

FILES = {
    "empty folder": Case(damage=without(CONFIG, WEIGHTS), words="holds neither"),
    "no folder": Case(damage=lambda folder, _: folder / "no", words="there is no directory"),
    "a file": Case(damage=lambda folder, _: folder / CONFIG, words="is a file; give the directory"),
    "folder with NUL": Case(
        damage=lambda folder, _: f"{folder}\0x", words="cannot be read", arguments=None
    ),
    "folder of 10,000": Case(damage=lambda *_: LONG, words="name too long"),
    "config without weights": Case(damage=without(WEIGHTS), words=f"but no {WEIGHTS}"),
    "weights without config": Case(damage=without(CONFIG), words=f"but no {CONFIG}"),
    "weights of no bytes": Case(damage=weights(b""), words=f"{WEIGHTS} has 0 bytes"),
    "header cut off": Case(damage=weights(pack(b'{"a"', length=500)), words="500 bytes"),
    "data cut off": Case(damage=cut, words="is cut off"),
    "header of exabytes": Case(damage=weights(pack({}, length=2**62)), words="at most 100,000,000"),
    "header over 100 MB": Case(damage=big_header, words="100,000,001 bytes"),
    "overlapping": Case(damage=weights(pack(TWO, b"1" * 12)), words="overlaps the tensor before"),
    "gap": Case(
        damage=weights(pack({"a": entry(0, 4), "b": entry(8, 12)}, b"1" * 12)),
        words="leaves a gap",
    ),
    "out of the file": Case(
        damage=weights(pack({"a": entry(0, 4000)}, b"1234")), words="end at 4,000"
    ),
    "negative offset": Case(
        damage=weights(pack({"a": entry(-8, 0, size=2)}, b"12345678")), words="offsets [-8, 0]"
    ),
    "offset of 2**63": Case(
        damage=weights(pack({"a": entry(2**63, 2**63, size=0)})), words="impossible offsets"
    ),
    "bytes of nobody": Case(
        damage=weights(pack({"a": entry(0, 4)}, b"1234rm -rf /")), words="belong to no tensor"
    ),
    "duplicate tensor": Case(
        damage=weights(pack(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{}}')),
        words="key 'a' twice",
    ),
    "NaN": Case(damage=value(math.nan), words="1 of 16 values that are NaN"),
    "Inf": Case(damage=value(math.inf), words="1 of 16 values that are NaN or infinite"),
    "-Inf": Case(damage=value(-math.inf), words="lora_A.weight' holds 1 of 16"),
    **{
        f"pickle {suffix}": Case(damage=extra(f"adapter_model{suffix}"), words="can run code")
        for suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".BIN")
    },
    "pickle as weights": Case(
        damage=weights(pickle.dumps({"a": np.ones(3)})), words="pickle under another name"
    ),
    "archive as weights": Case(damage=archive, words="pickle under another name"),
    "pickle as tokenizer": Case(
        damage=extra("tokenizer.model", pickle.dumps([1])), words="tokenizer.model is a pickle"
    ),
    "link to a file": Case(damage=link("README.md", to="file"), words="'README.md' is a link"),
    "link to a folder": Case(damage=link("more", to="directory"), words="'more' is a link"),
    "link for weights": Case(damage=moved_out, words=f"'{WEIGHTS}' is a link"),
    "duplicate key": Case(
        damage=config(b'{"peft_type": "LORA", "r": 2, "r": 4}'), words="key 'r' twice"
    ),
    "duplicate key inside": Case(
        damage=config(b'{"peft_type": "LORA", "rank_pattern": {"a": 2, "a": 4}}'),
        words="key 'a' twice",
    ),
    "100 MB of config": Case(damage=sparse(CONFIG, 10**8), words="has 100,000,000 bytes; at most"),
    "100 MB of tokenizer": Case(
        damage=sparse("tokenizer.json", 10**8), words="tokenizer.json has 100,000,000 bytes"
    ),
    "100,000 levels of config": Case(
        damage=config(DEEP[: 2**20 - 1]), words="nested more than 64 levels"
    ),
    "100,000 levels of list": Case(damage=config(b"[" * 100_000), words="more than 64 levels"),
    "100,000 levels of header": Case(
        damage=weights(pack(b'{"a":' * 100_000)), words="nested more than 4 levels"
    ),
    "config no JSON": Case(damage=config(b"peft_type: LORA"), words="is not JSON"),
    "config of NaN": Case(damage=config(b'{"lora_alpha": NaN}'), words="holds NaN"),
    "config not UTF-8": Case(damage=config(b'{"\xff": 1}'), words="is not UTF-8"),
    "auto_mapping": Case(damage=keys(**MODULE), words="names a Python module to import"),
    "megatron_core": Case(damage=keys(megatron_core="canary_module"), words="'canary_module'"),
    "megatron_config": Case(damage=keys(megatron_config={"a": 1}), words="import megatron_core"),
    "init path": Case(
        damage=keys(prompt_tuning_init_state_dict_path="/etc/passwd"), words="'/etc/passwd'"
    ),
    "encoder path": Case(
        damage=keys(prompt_encoder_init_state_dict_path="x.bin"), words="opens another file"
    ),
    "bias": Case(damage=keys(bias="all"), words="bias='all'"),
    "other architecture": Case(
        error=IncompatibleBaseModel,
        damage=instead("lora", kind="llama"),
        words="model.layers.0.self_attn.q_proj has a LoRA, but the base has no such module",
    ),
    "other depth": Case(
        error=IncompatibleBaseModel, damage=instead("lora", layers=5), words="h.2.attn.c_attn has"
    ),
    "other width": Case(
        error=IncompatibleBaseModel,
        damage=instead("lora", width=12),
        words="takes 12 and gives 36 values in the adapter, but 8 and 24 in the base",
    ),
    "other vocabulary": Case(
        error=IncompatibleBaseModel, damage=instead("lora", head=20), words="(another vocabulary)"
    ),
    "prompt of another width": Case(
        error=IncompatibleBaseModel,
        damage=instead("prompt", width=12),
        words="prompt_embeddings has width 12, but the base embeds tokens in 8 values",
    ),
}  # fmt: skip

NAMES = {
    "slash": Case(error=InvalidReference, name="a/b", words="contains '/' (SOLIDUS)"),
    "at": Case(error=InvalidReference, name="a@b", words="contains '@' (COMMERCIAL AT)"),
    "newline": Case(error=InvalidReference, name="a\n", words=r"contains '\n'"),
    "escape": Case(error=InvalidReference, name="a\x1b[31m", words=r"contains '\x1b'"),
    "delete": Case(error=InvalidReference, name="a\x7f", words=r"contains '\x7f'"),
    "NUL": Case(error=InvalidReference, name="a\0", words=r"contains '\x00'"),
    "space": Case(error=InvalidReference, name="a b", words="contains ' ' (SPACE)"),
    "empty": Case(error=InvalidReference, name="", words="adapter name '' is not allowed"),
    "up": Case(error=InvalidReference, name="..", words="starting with a letter or digit"),
    "hidden": Case(error=InvalidReference, name=".a", words="starting with a letter or digit"),
    "10,000 characters": Case(error=InvalidReference, name=LONG, words="has 10,000 characters"),
    "129 characters": Case(error=InvalidReference, name="n" * 129, words="has 129 characters"),
    "fullwidth": Case(
        error=InvalidReference, name="ｓｕｍｍａｒｙ", words="did you mean 'summary'?"
    ),
    "superscript": Case(error=InvalidReference, name="summary²", words="did you mean 'summary2'?"),
    "Cyrillic": Case(
        error=InvalidReference, name="summаry", words="CYRILLIC SMALL LETTER A"
    ),
    "Greek": Case(error=InvalidReference, name="summarο", words="GREEK SMALL LETTER OMICRON"),
    "decomposed": Case(
        error=InvalidReference, name="re\u0301sume\u0301", words="COMBINING ACUTE ACCENT"
    ),
    "composed": Case(error=InvalidReference, name="résumé", words="SMALL LETTER E WITH ACUTE"),
    "right to left": Case(
        error=InvalidReference, name="a\u202eb", words="RIGHT-TO-LEFT OVERRIDE"
    ),
    "invisible": Case(error=InvalidReference, name="a\u200bb", words="ZERO WIDTH SPACE"),
    "half a character": Case(error=InvalidReference, name="a\udcff", words=r"'\udcff'"),
}  # fmt: skip


def option(keyword, given, argument, *texts, words, **more):
    """Describe a mistake in one option."""
    arguments = tuple(item for text in texts for item in (argument, text)) if texts else None
    return Case(
        error=InvalidInput, options={keyword: given}, arguments=arguments, words=words, **more
    )


OPTIONS = {
    "metric NaN": option(
        "scores", {"rougeL": math.nan}, "--score", "rougeL=nan", words="'rougeL' is nan"
    ),
    "metric Inf": option(
        "scores", {"rougeL": -math.inf}, "--score", "rougeL=-inf", words="'rougeL' is -inf"
    ),
    "metric text": option(
        "scores", {"rougeL": "0.4!"}, "--score", "rougeL=0.4!", words="'rougeL' is '0.4!'",
        code=USAGE, said="'0.4!' is no number",
    ),
    "metric digits": option("scores", {"rougeL": "0.4"}, "--score", words="is '0.4'"),
    "metric true": option("scores", {"rougeL": True}, "--score", words="'rougeL' is True"),
    "metric None": option("scores", {"rougeL": None}, "--score", words="'rougeL' is None"),
    "metric too large": option("scores", {"rougeL": 10**400}, "--score", words="must be a finite"),
    "metric name": option("scores", {"a b": 1.0}, "--score", "a b=1", words="'a b' is no metric"),
    "metric name NUL": option("scores", {"a\0": 1}, "--score", "a\0=1", words=r"'a\x00' is no"),
    "task": option("task", "Summarise This", "--task", "Summarise This", words="'Summarise This'"),
    "task empty": option("task", "", "--task", "", words="task '' is not a pipeline tag"),
    "task NUL": option("task", "a\0", "--task", "a\0", words=r"'a\x00' is not a pipeline tag"),
    "task long": option("task", LONG, "--task", LONG, words="is not a pipeline tag"),
    "tag number": option("tags", {"epoch": 3}, "--tag", words="'epoch'=3"),
    "tag key": option("tags", {1: "x"}, "--tag", words="tag 1='x'"),
    "tag empty": option("tags", {"": "x"}, "--tag", "=x", words="''='x'",
                        code=USAGE, said="'=x' is not KEY=VALUE"),
    "tag without value": option("tags", {"x": None}, "--tag", "x", words="'x'=None",
                                code=USAGE, said="'x' is not KEY=VALUE"),
    "tag NUL": option("tags", {"a": "x\0"}, "--tag", "a=x\0", words="tag 'a' is over"),
    "tag key NUL": option("tags", {"a\0": "x"}, "--tag", "a\0=x", words=r"tag 'a\x00' is over"),
    "tag not UTF-8": option("tags", {"a": "\udcff"}, "--tag", "a=\udcff", words="not UTF-8"),
    "parameter NaN": option(
        "hyperparameters", {"lr": math.nan}, "--param", "lr=NaN",
        words="the hyperparameters cannot be kept as JSON",
    ),
    "parameter Inf": option(
        "hyperparameters", {"lr": [1, math.inf]}, "--param", "lr=[1, 1e999]",
        words="the hyperparameters cannot be kept as JSON",
    ),
    "parameter object": option(
        "hyperparameters", {"model": object()}, "--param", words="not JSON serializable"
    ),
    "parameter array": option(
        "hyperparameters", {"seeds": np.ones(2)}, "--param", words="ndarray is not JSON"
    ),
    "parameter key": option("hyperparameters", {("a",): 1}, "--param", words="keys must be str"),
    "parameter NUL": option(
        "hyperparameters", {"a": ["\0"]}, "--param", 'a=["\\u0000"]', words="a NUL character"
    ),
    "parameter surrogate": option(
        "hyperparameters", {"a": "\ud800"}, "--param", 'a="\\ud800"', words="surrogates not"
    ),
    "parameters of 2 MiB": option(
        "hyperparameters", {"a": "x" * 2**21}, "--param", "a=" + "x" * 2**21, words="2,097,160 b"
    ),
    "generation NaN": option(
        "generation_config", {"temperature": math.nan}, "--generation", "temperature=NaN",
        words="the generation config cannot be kept as JSON",
    ),
    "template brace": option(
        "input_template", "Summary: {text", "--template", "Summary: {text", words="unmatched '{'"
    ),
    "template closing": option(
        "input_template", "{text}}", "--template", "{text}}", words="unmatched '}'"
    ),
    "template attribute": option(
        "input_template", "{a.__class__}", "--template", "{a.__class__}", words="plain column names"
    ),
    "template without column": option(
        "input_template", "Summary:", "--template", "Summary:", words="'Summary:' has no column"
    ),
    "template NUL": option(
        "input_template", "\0{text}", "--template", "\0{text}", words="the input template is over"
    ),
    "template not UTF-8": option(
        "input_template", "{text}\udcff", "--template", "{text}\udcff",
        words="the input template is not UTF-8 text (character 6)",
    ),
    "description NUL": option(
        "description", "a\0b", "--description", "a\0b", words="the description is over"
    ),
    "description not UTF-8": option(
        "description", "caf\udce9", "--description", "caf\udce9", words="description is not UTF-8"
    ),
    "run NUL": option("source_run", "\0", "--run", "\0", words="the source run is over"),
    "run not UTF-8": option("source_run", "\udcff", "--run", "\udcff", words="run is not UTF-8"),
}  # fmt: skip

CASES = (
    {f"file: {name}": case for name, case in FILES.items()}
    | {f"name: {name}": case for name, case in NAMES.items()}
    | {f"option: {name}": case for name, case in OPTIONS.items()}
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory, make, tiny_base, place_at):
    """A registry that has something to lose, for all cases: none may change it."""
    place = place_at(tmp_path_factory.mktemp("filled") / "place")
    folder = make.lora(tmp_path_factory.mktemp("good") / "lora", seed=1)
    with place.open() as registry:
        registry.register("good", folder, base=tiny_base, task="summarization", tags={"a": "b"})
        registry.promote("good/1", "production")
    return place


@pytest.fixture
def place(filled):
    """The one registry of this module."""
    return filled


@pytest.fixture
def folder(tmp_path, make):
    """A sound adapter directory, to be damaged."""
    return make.lora(tmp_path / "adapter", seed=2)


@pytest.fixture
def unchanged(place):
    """Check after the test that the registry is exactly as it was."""
    before = place.state()
    yield
    assert place.state() == before


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("unchanged")
def test_the_library_refuses_and_changes_nothing(place, folder, make, tiny_base, name):
    """`Registry.register` raises the right error, which says what is wrong and with which value."""
    case = CASES[name]
    damaged = case.damage and case.damage(folder, make)
    with place.open() as registry, pytest.raises(case.error) as caught:
        registry.register(case.name, damaged or folder, base=tiny_base, **case.options)
    assert type(caught.value) is case.error
    assert case.words in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.arguments is not None]
)
@pytest.mark.usefixtures("unchanged")
def test_the_command_refuses_and_changes_nothing(command, folder, make, tiny_base, name):
    """``dovetail register`` says the same on stderr and exits with the error's code."""
    case = CASES[name]
    damaged = case.damage and case.damage(folder, make)
    target = damaged or folder
    code, said = command("register", case.name, target, "--base", tiny_base, *case.arguments)
    assert code == (case.code or CODES[case.error])
    assert (case.said or case.words) in said
    assert "Traceback" not in said


ALIASES = {
    "latest": "'latest' is reserved",
    "base": "'base' is reserved",
    "Latest": "'Latest' is reserved",
    "BASE": "'BASE' is reserved",
    "7": "'7' looks like a version number",
    "007": "looks like a version number",
    "v3": "'v3' looks like a version number",
    "V3": "'V3' looks like a version number",
    "a/b": "contains '/' (SOLIDUS)",
    "a@b": "contains '@' (COMMERCIAL AT)",
    "": "alias '' is not allowed",
    "ｐｒｏｄ": "did you mean 'prod'?",
    "prоd": "CYRILLIC SMALL LETTER O",
    "a\0": r"contains '\x00'",
    LONG: "has 10,000 characters",
}


@pytest.mark.parametrize("alias", ALIASES, ids=lambda alias: ascii(alias[:20]))
@pytest.mark.usefixtures("unchanged")
def test_aliases_that_cannot_be_set_are_refused(place, command, alias):
    """No command sets an alias that is reserved, looks like a number or cannot be typed."""
    with place.open() as registry:
        for call in (
            lambda: registry.promote("good/1", alias),
            lambda: registry.rollback("good", alias),
            lambda: registry.require("good", alias, ["rougeL >= 0.4"]),
        ):
            with pytest.raises(InvalidReference) as caught:
                call()
            assert ALIASES[alias] in str(caught.value)
    code, said = command("promote", "good/1", alias)
    assert (code, ALIASES[alias] in said) == (5, True)


@pytest.mark.parametrize(
    "reason", ["a\0b", "\udcff", "x" * (2**20 + 1)], ids=["NUL", "byte", "long"]
)
@pytest.mark.usefixtures("unchanged")
def test_reasons_that_cannot_be_kept_are_refused(place, command, make, reason):
    """A reason goes into the history, so it must be text that a database keeps."""
    with place.open() as registry:
        for call in (
            lambda: registry.promote("good/1", "staging", reason=reason),
            lambda: registry.require("good", "production", [], reason=reason),
            lambda: registry.rollback("good", "production", reason=reason),
        ):
            with pytest.raises((InvalidInput, ConflictError)):
                call()
    code, said = command("promote", "good/1", "staging", "--reason", reason)
    assert (code, "the reason is" in said) == (5, True)


@pytest.mark.usefixtures("unchanged")
def test_another_task_is_a_conflict_or_leaves_only_blobs(place, command, make, folder, tiny_base):
    """The same content under another task gives the version that exists; the task stays."""
    same = make.lora(folder.parent / "same", seed=1)
    with place.open() as registry:
        registration = registry.register("good", same, base=tiny_base, task="translation")
        assert not registration.created
        assert registry.adapter("good").task == "summarization"


@pytest.mark.parametrize("base", ["nowhere", "sha256:" + "0" * 64, LONG, "a\0b", ""])
@pytest.mark.usefixtures("unchanged")
def test_a_base_that_is_not_there_is_not_found(place, folder, base):
    """A base model that is neither a directory nor registered is told, whatever was typed."""
    with place.open() as registry, pytest.raises(BaseModelNotFound) as caught:
        registry.register("fresh", folder, base=base)
    assert "neither a directory nor a registered base model" in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda base: (base / "config.json").unlink(), BaseModelNotFound, "has no config.json"),
        (lambda base: (base / "model.safetensors").unlink(), BaseModelNotFound, "no weights in"),
        (
            lambda base: (base / "model.safetensors").write_bytes(b"PK\3\4" + b"\0" * 99),
            InvalidPayload,
            "is a pickle",
        ),
        (lambda base: (base / "config.json").write_text("[" * 10**5), InvalidPayload, "64 levels"),
        (lambda base: (base / "config.json").write_text("[]"), InvalidInput, "no JSON object"),
        (lambda base: base.rename(base.with_name("caf\udce9")), InvalidInput, "is not UTF-8 text"),
    ],
    ids=["no config", "no weights", "pickle", "deep", "list", "folder not UTF-8"],
)  # fmt: skip
@pytest.mark.usefixtures("unchanged")
def test_a_damaged_base_is_refused(place, command, folder, make, damage, error, words):
    """A base model that cannot be read is told apart from an adapter that cannot."""
    base = make.base(folder.parent / "base", seed=5)
    given = damage(base)
    given = given if isinstance(given, type(base)) else base
    with place.open() as registry:
        for call in (
            lambda: registry.register("fresh", folder, base=given),
            lambda: registry.register_base(given),
        ):
            with pytest.raises(error) as caught:
                call()
            assert words in str(caught.value)
    code, said = command("register", "fresh", folder, "--base", given)
    assert (code, words in said) == (CODES[error], True)
    code, said = command("base", "add", given)
    assert (code, words in said) == (CODES[error], True)


PATHS = ["../evil", "a/../../evil", "/var/evil", "a\\..\\evil", "C:evil", "a//b", "a\nb", ""]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_climbs_out_is_refused_wherever_it_comes_from(
    tmp_path, place_at, tiny_base, folder, path
):
    """A file name that was put into the database leads nowhere outside the target folder."""
    with pytest.raises(InvalidPayload, match="no path inside a payload"):
        check_file_path(path)
    place = place_at(tmp_path / "tampered")
    with place.open() as registry:
        registry.register("summary", folder, base=tiny_base)
    assert place.execute("UPDATE files SET path = ? WHERE path = ?", path, WEIGHTS) == 1
    before = sorted(tmp_path.rglob("*"))
    with place.open() as registry:
        for target in (tmp_path / "target" / "pulled", None):
            with pytest.raises(InvalidPayload, match="no path inside a payload"):
                registry.pull("summary/1", target)
    after = set(tmp_path.rglob("*")) - set(before)
    assert after <= {tmp_path / "target", place.cache / "payloads"}


@pytest.mark.parametrize("pattern", ["../*", "/etc/*", "*/../*", "**", "*"])
@pytest.mark.usefixtures("unchanged")
def test_what_is_excluded_is_a_name_and_no_path(place, folder, tiny_base, pattern):
    """A pattern is compared with names in the directory, and reaches nothing else."""
    (folder / "x.bin").write_bytes(b"\x80\x04.")
    with place.open() as registry, pytest.raises(InvalidPayload, match=r"x\.bin|neither"):
        registry.register("fresh", folder, base=tiny_base, exclude=[pattern])
    assert (folder / "x.bin").exists()


@pytest.mark.parametrize("actor", ["a\0b", "\udcff", "x" * 2_000_000])
def test_an_actor_that_no_history_can_keep_is_refused(place, actor):
    """A name that no database can write down is refused when the registry is opened."""
    with pytest.raises(InvalidInput, match="the actor's name"):
        place.open(actor=actor)
