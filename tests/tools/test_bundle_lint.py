"""R22: what a bundle's configuration may say is an allow-list."""

from pathlib import Path

import pytest

from tools.bundle_lint import lint, lint_bundle, lint_overlay

FINE = [
    "$@train#trainer.run()",
    "$@bundle_root + '/models'",
    "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "$torch.device('cuda:' + os.environ['LOCAL_RANK'])",
    "$import torch.distributed as dist",
    "$dist.init_process_group(backend='nccl')",
    "$@network_def.to(@device)",
    "@device",
    "plain text",
]
BAD = [
    "$__import__('os').system('x')",
    "$open('/etc/passwd').read()",
    "$exec('1')",
    "$@a.run() or __import__('os')",
    "$@bundle_root + '/x' + open('y').read()",
    "$import os; os.system('x')",
    "$torch.device('cuda:' + os.environ['HOME'])",
    "$dist.init_process_group(backend=exec)()",
    "$[x for x in ().__class__.__bases__]",
]


@pytest.mark.parametrize("value", FINE)
def test_allowed_expressions_pass(tmp_path: Path, value: str) -> None:
    (tmp_path / "infer.yaml").write_text(f'a: "{value}"\n')
    assert lint(tmp_path / "infer.yaml") == []


@pytest.mark.parametrize("value", BAD)
def test_other_expressions_are_found(tmp_path: Path, value: str) -> None:
    (tmp_path / "infer.yaml").write_text(f'a: [{{b: "{value}"}}]\n')
    (finding,) = lint(tmp_path / "infer.yaml")
    assert "a#0#b: the expression" in finding and "not on the allow-list" in finding


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("a: {_target_: os.system, command: x}", "'os.system' is not from"),
        ("a: {_target_: system}", "neither a dotted path nor the name of a MONAI class"),
        ("other: 1\na: '%other.yaml#b'", "reads another file"),
        ("a: {b: null}", "a#b: is null, and MONAI sets no id below null"),
        ("a: '@nothing#there'", "refers to 'nothing', which the file does not have"),
    ],
)
def test_targets_macros_and_references_are_judged(tmp_path: Path, line: str, text: str) -> None:
    (tmp_path / "train.yaml").write_text(line)
    (finding,) = lint(tmp_path / "train.yaml")
    assert text in finding


def test_an_overlay_holds_data_under_known_ids(tmp_path: Path) -> None:
    file = tmp_path / "over.yaml"
    file.write_text("generate#steps: 4\n+generate: {x: 1}\ngenerat#steps: 1\nadapt#f: {_target_: a.b}\nadapt#x: $1\n")
    findings = "\n".join(lint_overlay(file, {"generate": {}, "adapt": {}}))
    assert "+generate: MONAI's merge mark" in findings
    assert "generat#steps: no such section" in findings
    assert "adapt#f#_target_: an overlay holds data" in findings
    assert "adapt#x: '$1'; an overlay holds data" in findings
    assert findings.count("\n") == 3


def test_a_bundle_lacking_files_and_fields_is_reported(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text('{"version": "2", "changelog": {"1": "x"}}')
    (tmp_path / "configs" / "train.yaml").write_text("a: $exit()")
    text = "\n".join(lint_bundle(tmp_path))
    for part in ("LICENSE is missing", "monai_version is missing", "does not have version 2", "meddap-monai", "$exit"):
        assert part in text
