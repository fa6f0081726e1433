"""The grammar of ids: what was typed arrives, whatever signs it holds, and data stays data."""

import os
from pathlib import Path
from typing import Any

import pytest

from meddap_monai.classifier.inference_config import InferConfig
from meddap_monai.cli.evaluation import read_keys
from meddap_monai.core.configuration import build, field_types
from meddap_monai.core.ids import check_data, parse_yaml, read_pairs, read_yaml
from meddap_monai.diffusion.generation.config import GenerateConfig
from meddap_monai.errors import ConfigurationError
from meddap_monai.study import read_study
from meddap_monai.study.command import command_of
from meddap_monai.study.sections import load_sections

TYPED = [
    "/data/study #2", "/data/a: b", "/data/a :b", "a #b", "- a", "-a", "* a", "&a", "!a", "!!python/none a", "? a",
    "| a", "> a", "'quoted'", '"quoted"', "it's", '6" probe', "`a`", "yes", "no", "on", "off", "true", "null x",
    "2024-01-01", "010", "0x1F", "1_000", "1:30", "1e3", ".5", "12", "=", "<<", "a=b", "a,b", "{a", "[a", "a]", " lead",
    "trail ", "\ta", "a\\b", "Zyste_ä", "超音波", "a::b", "x@#y", "a%#b", "./$a", "./@a", "./%a", "a$b", "a@b", "100%",
    "~", "null", "a\nb",
]  # fmt: skip


@pytest.mark.parametrize("text", TYPED, ids=repr)
def test_a_path_is_the_text_that_was_typed(text: str) -> None:
    sections = load_sections([], [f"source={text}"], "index")
    assert sections["index"]["source"] == text
    study, _ = read_study(load_sections([], [f"index#source={text}", f"unseen#source={text}"]))
    assert study.index.source == study.unseen.source == Path(text)


def test_a_folder_whose_name_is_not_utf_8_is_a_path_too() -> None:
    name = os.fsdecode(b"/data/M\xfcller")
    assert read_study(load_sections([], [f"index#source={name}"]))[0].index.source == Path(name)
    with pytest.raises(ConfigurationError, match=r"index#label_column: got .*, expected text in UTF-8"):
        read_study(load_sections([], [f"index#label_column={name}"]))


@pytest.mark.parametrize("text", ["", "a\0b"], ids=repr)
def test_no_path_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="study#index#source: got .*, expected a path"):
        read_study(load_sections([], [f"index#source={text}"]))


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        (["steps=1_000"], {"steps": 1000}),
        (["steps=010"], {"steps": 10}),
        (["guidance=1e-3"], {"guidance": 0.001}),
        (["guidance=2"], {"guidance": 2.0}),
        (["grey=yes"], {"grey": True}),
        (["grey=null"], {"grey": None}),
        (["negative="], {"negative": None}),
        (["negative=no # text"], {"negative": "no # text"}),
        (["negative=null"], {"negative": None}),
        (["scheduler=ddim"], {"scheduler": "ddim"}),
        (["scheduler=[ddim, euler]"], {"scheduler": ("ddim", "euler")}),
        (["classes=[no, yes, 010, 1_000, 2024-01-01, null, 'a: b']"],
         {"classes": ("no", "yes", "010", "1_000", "2024-01-01", "null", "a: b")}),
        (["ratio=2"], {"ratio": 2.0}),
        (["ratio={1: 2, no: 1e-1}"], {"ratio": {"1": 2.0, "no": 0.1}}),
        (["ratio#benign=2", "ratio#no=.5"], {"ratio": {"benign": 2.0, "no": 0.5}}),
        (["classifier_guidance#scale=3", "classifier_guidance#classifier=a #b"],
         {"classifier_guidance": {"scale": 3.0, "classifier": Path("a #b")}}),
        (["plan=/p #1.csv"], {"plan": Path("/p #1.csv")}),
        (["plan=null"], {"plan": None}),
    ],
)  # fmt: skip
def test_a_value_is_read_as_its_field_says(texts: list[str], value: dict[str, Any]) -> None:
    given = load_sections([], ["counts=null", *texts], "generate")["generate"]
    given = ({} if value.get("plan") else {"ratio": 1.0}) | given
    config = build(GenerateConfig, given, "generate")
    for name, wanted in value.items():
        found = getattr(config, name)
        if name == "classifier_guidance":
            found = {key: getattr(found, key) for key in wanted}
        assert found == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps=1:30", "generate#steps: got '1:30'"),
        ("steps=1.5", "generate#steps: got 1.5"),
        ("steps=" + "9" * 5000, "generate#steps: cannot be read as YAML"),
        ("steps=" + "9" * 50, "expected a number of at most 63 bits"),
        ("guidance=nan", "generate#guidance: got nan, expected a finite number"),
        ("guidance=.inf", "generate#guidance: got inf, expected a finite number"),
        ("guidance=" + "9" * 500, "expected a finite number"),
        ("classes=[a", "command line: generate#classes: cannot be read as YAML"),
        ("classes={a: [}", "command line: generate#classes: cannot be read as YAML"),
        ("counts={a: 1, a: 2}", "the key 'a' stands there twice"),
        ("counts={[a]: 1}", "cannot be read as YAML"),
        ("batch=&a", "generate#batch: got None"),
        ("counts=&a {b: *a}", "more than 32 levels or 20,000 values"),
        ("counts=" + "{a: " * 5000, "cannot be read as YAML"),
        ("counts=" + "[" * 60 + "]" * 60, "more than 32 levels"),
        ("counts=!!python/object/apply:os.system [x]", "got a value of type python/object/apply:os.system"),
        ("counts=!!binary aGk=", "got a value of type binary"),
        ("counts=!!set {a}", "got a value of type set"),
    ],
)
def test_what_cannot_be_read_is_one_named_error(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as found:
        build(GenerateConfig, load_sections([], [text], "generate")["generate"], "generate")
    assert message in str(found.value) and "\n" not in str(found.value)


OVERLAYS = [
    ("a: &a [*a]", "more than 32 levels"),
    ("generate: {x: &a {y: *a}}", "more than 32 levels"),
    ("\n".join([f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9 if n else '1'}]" for n in range(9)]), "20,000 values"),
    ("a: " + "[" * 5000, "cannot be read as YAML"),
    ("3: 4", "3: got int, expected an id as text"),
    ("generate#steps: 2\ngenerate#steps: 3", "the key 'generate#steps' stands there twice"),
    ("generate#ratio: {1: 2}", "study#generate#ratio: got {1: 2}"),
    ("index#fractions: {1: 0.5}", "the key 1 is int, expected text"),
    ("variants: {a: {1: 2}}", "1: got int, expected an id as text"),
    ("variants: {a: 3}", "study#variants#a"),
    ("variants: 3", "study#variants: got 3, expected a mapping"),
    ("grid: 3", "study#grid: got 3, expected a mapping"),
    ("grid: {generate#steps: 3}", "grid#generate#steps: got 3, expected a list"),
    ("grid: {generate#steps: abc}", "grid#generate#steps: got 'abc', expected a list"),
    ("grid: {head: {svc: 3}}", "grid#head#svc: got 3, expected a mapping"),
    ("grid: {4: [1]}", "study#grid: the key 4 is int, expected text"),
    ("limits: 3", "limits: got 3, expected a mapping"),
    ("limits: {generate#steps: {replace: 3}}\ngenerate#steps: 3", "limits#generate#steps#replace: got 3"),
    ("limits: {3: 4}", "3: got int, expected an id as text"),
    ("seeds: 3", "study#seeds: got 3, expected a list"),
    ("evaluate: 3", "study#evaluate: got 3, expected a mapping"),
    ("evaluate: null", "study#evaluate: got None, expected a mapping"),
    ("study#index: {}", "unknown key 'study'"),
    ("generate#steps: 2024-01-01", "study#generate#steps: got '2024-01-01' (str), expected int"),
    ("generate#steps: !!binary aGk=", "got a value of type binary"),
    ("generate#guidance: .nan", "expected a finite number"),
    ("\x00", "cannot be read as YAML"),
    ("#" + "x" * 300_000, "more than 262,144 bytes"),
]


@pytest.mark.parametrize(("content", "message"), OVERLAYS, ids=[message for _, message in OVERLAYS])
def test_a_broken_overlay_is_one_named_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "over.yaml").write_text(content)
    with pytest.raises(ConfigurationError) as found:
        read_study(load_sections([tmp_path / "over.yaml"]))
    assert message in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("data", ["generate#negative: Zyste_ä".encode("latin-1"), "a: b".encode("utf-16")])
def test_an_overlay_that_is_not_utf_8_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "over.yaml").write_bytes(data)
    with pytest.raises(ConfigurationError, match="over.yaml: cannot be read as YAML.*expected a text file in UTF-8"):
        read_yaml(tmp_path / "over.yaml")


def test_dates_of_yaml_stay_texts() -> None:
    assert parse_yaml("[2024-01-01, 1:30, 0.5, 7, no, '7']", "here") == ["2024-01-01", "1:30", 0.5, 7, False, "7"]


# ------------------------------------------------------------------------------------------------------------- code
CODE = [
    ("index#table", "$__import__('os').system('touch {0}')"),
    ("index#source", "$(__import__('pathlib').Path('{0}').touch())"),
    ("generate#steps", "$1 + 1"),
    ("generate#negative", "@base"),
    ("generate#negative", "%base"),
    ("generate#classes", ["a", "$open('{0}', 'w')"]),
    ("variants", {"a": {"generate#negative": "$open('{0}', 'w')"}}),
    ("grid", {"generate#negative": ["a", "@base"]}),
    ("limits", {"generate#negative": "$open('{0}', 'w')"}),
    ("generate#ratio", {"_target_": "os.system", "command": "touch {0}"}),
    ("generate#ratio#_target_", "os.system"),
    ("generate#ratio", {"a": {"_requires_": "x"}}),
]


def _fill(value: Any, text: str) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, text) for key, item in value.items()}
    return [_fill(item, text) for item in value] if isinstance(value, list) else str(value).replace("{0}", text)


@pytest.mark.parametrize(("key", "value"), CODE, ids=[f"{key} {value}" for key, value in CODE])
@pytest.mark.parametrize("way", ["overlay", "override"])
def test_code_in_data_is_refused_and_never_runs(tmp_path: Path, key: str, value: Any, way: str) -> None:
    import json

    given = _fill(value, str(tmp_path / "ran"))
    (tmp_path / "over.yaml").write_text(json.dumps({key: given}))
    text = f"{key}={given if isinstance(given, str) else json.dumps(given)}"
    overlays, overrides = ([tmp_path / "over.yaml"], []) if way == "overlay" else ([], [text])
    with pytest.raises(ConfigurationError) as found:
        load_sections(overlays, overrides)
    assert key.split("#")[0] in str(found.value) and "expected data" in str(found.value)
    assert not (tmp_path / "ran").exists()


def test_trusted_code_runs_as_in_monai(tmp_path: Path) -> None:
    (tmp_path / "over.yaml").write_text("generate#steps: $3 * 7\ngenerate#negative: '@base'\n")
    sections = load_sections([tmp_path / "over.yaml"], ["index#source=$'a' + 'b'"], trust=True)
    assert (sections["generate"]["steps"], sections["generate"]["negative"]) == (21, "embedded")
    assert sections["index"]["source"] == "ab"


@pytest.mark.parametrize("cls", [InferConfig])
def test_commands_without_monai_refuse_code_too(cls: type) -> None:
    with pytest.raises(ConfigurationError, match="command line: device: '@cpu' begins as MONAI's code does"):
        read_keys(["device=@cpu"], cls)


def test_text_that_only_holds_such_signs_is_data() -> None:
    check_data({"a": "costs 5 $, see x@y, 100 %", "b": ["./$x"], "c": {"target": "x"}}, "here")


# ---------------------------------------------------------------------------------------------- the report's command
@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("index#source=/data/Doe, Jane's \"US\"", "'index#source=...'"),
        ("index#source=/data/a b", "'index#source=...'"),
        ("unseen#source=/data/Doe #2", "'unseen#source=...'"),
        ("index::source=/data/Doe", "index::source=..."),
        ("index#table=/data/Doe.csv", "'index#table=...'"),
        ("unlabelled#key_file=/home/Doe/key", "'unlabelled#key_file=...'"),
        ("classify#weights=/home/Doe/w.pt", "'classify#weights=...'"),
        ("classify#encoder=transformers:/data/Doe, J/dino", "'classify#encoder=transformers:dino'"),
        ("grid={'classify#encoder': ['torchscript:/data/Doe/a.pt#0f', resnet10]}",
         """'grid={classify#encoder: ['"'"'torchscript:a.pt#0f'"'"', resnet10]}'"""),
        ("unseen={source: '/data/Doe, J', split: unseen, table: Doe}",
         "'unseen={source: ..., split: unseen, table: ...}'"),
        ("variants={a: {'index#source': '/data/Doe J'}, b: {unseen: {source: Doe}}}",
         "'variants={a: {index#source: ...}, b: {unseen: {source: ...}}}'"),
        ("grid={'index#source': [/data/Doe, /x], 'generate#steps': [1, 2]}",
         "'grid={index#source: ..., generate#steps: [1, 2]}'"),
        ("grid={where: {a: {'index#table': Doe}}}", "'grid={where: {a: {index#table: ...}}}'"),
        ("limits={'unseen#source': Doe}", "'limits={unseen#source: ...}'"),
        ("mix#search#classifier#steps=3", "'mix#search#classifier#steps=3'"),
        ("unseen={source: /data/other, split: unseen}", "'unseen={source: ..., split: unseen}'"),
        ("seeds=[0, 1]", "'seeds=[0, 1]'"),
        ("evaluate#question=Does it help?", "'evaluate#question=Does it help?'"),
        ("classify#weights=null", "'classify#weights=null'"),
    ],
)  # fmt: skip
def test_the_command_of_a_report_names_no_path(word: str, shown: str) -> None:
    assert command_of("study", [], [word]) == f"meddap study {shown}"


def test_the_command_of_a_report_names_overlays_without_their_folder() -> None:
    assert command_of("study", ["/data/Doe, Jane/mine.yaml", "smoke"], []) == (
        "meddap study --config mine.yaml --config smoke"
    )


def test_variants_over_sources_are_numbered_so_that_no_path_is_a_name() -> None:
    _, variants = read_study(load_sections([], ["grid={'unseen#source': [/data/Doe, /data/Roe]}"]))
    assert list(variants) == ["source0", "source1"]
    folders = "['transformers:/data/Doe/a', resnet10, 'transformers:/data/Roe/a']"
    _, variants = read_study(load_sections([], [f"grid={{'classify#encoder': {folders}}}"]))
    assert list(variants) == ["encoder0", "resnet10", "encoder2"]


def test_pairs_of_a_stage_may_leave_out_its_name() -> None:
    types = {"index": field_types, "generate": GenerateConfig}
    pairs = read_pairs(["ratio=2", "index#labels=csv", "generate::steps=3"], types, "generate", types)
    assert pairs == {"generate#ratio": 2.0, "index#labels": "csv", "generate::steps": 3}
