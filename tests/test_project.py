"""What strangers meet first - promises, CONTRIBUTING, workflows, the image, metadata - names what is there."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from shown import ROOT

import meddap_monai
from tools.promises import NOT_YET, PAGE, read_promises

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
FIGURE = re.compile(r"\d+ of \d+ tests pass\b.*; \d{4}-\d\d-\d\d")


@pytest.mark.parametrize("promise", read_promises(PAGE.read_text()), ids=lambda promise: promise.name)
def test_every_promise_has_tests_that_exist_and_a_figure_that_was_measured(promise) -> None:  # noqa: ANN001
    assert promise.tests
    for test in promise.tests:
        place, _, function = test.partition("::")
        assert (ROOT / place).exists(), place
        assert not function or f"\ndef {function}(" in (ROOT / place).read_text(), test
    assert promise.measured == NOT_YET or FIGURE.fullmatch(promise.measured), promise.measured


def test_promises_are_numbered_without_a_gap() -> None:
    names = [promise.name for promise in read_promises(PAGE.read_text())]
    assert names == [f"R{number + 1}" for number in range(len(names))] and len(names) >= 43


def test_every_place_that_contributing_names_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:meddap_monai|tests|tools|bundles)/[\w/.]*|[A-Z]\w+\.cff|[\w.-]+\.(?:toml|txt))`", text)
    assert len(named) > 50 and [name for name in named if not (ROOT / name).exists()] == []
    for registry, module in re.findall(r"`([A-Z]+)` (?:in|of) `([\w/.]+\.py)`", text):
        assert re.search(rf"^{registry}\b", (ROOT / module).read_text(), flags=re.MULTILINE), registry
    rooms = {path.name for path in (ROOT / "meddap_monai").iterdir() if (path / "__init__.py").is_file()}
    spoken = {name.split("/")[1] for name in named if name.startswith("meddap_monai/") and name.count("/") > 1}
    assert rooms - spoken <= {"bundle", "phantom", "reading_form", "store", "training"}, "no room without a way in"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md"])
def test_links_and_sections_that_they_lead_to_exist(page: str) -> None:
    for target, section in re.findall(r"\]\(([^)#\s]+)(?:#([\w-]+))?\)", (ROOT / page).read_text()):
        if not target.startswith("https://"):
            headings = re.findall(r"^#+ (.*)$", (ROOT / target).read_text(), flags=re.MULTILINE)
            assert not section or section in {heading.lower().replace(" ", "-") for heading in headings}, target


def test_promises_that_the_threat_model_names_exist() -> None:
    known = {promise.name for promise in read_promises(PAGE.read_text())}
    named = set(re.findall(r"\bR\d+\b", (ROOT / "SECURITY.md").read_text()))
    assert len(named) > 15 and named <= known


def _runs(workflow: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return each ``run`` of a workflow with the matrix of its job."""
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    return [
        (step["run"], job.get("strategy", {}).get("matrix", {}))
        for job in jobs
        for step in job["steps"]
        if "run" in step
    ]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_what_make_offers(workflow: Path) -> None:
    called = set()
    for command, matrix in _runs(workflow):
        for name, values in matrix.items():
            command = command.replace(f"${{{{ matrix.{name} }}}}", " ".join(values))
        assert "${{" not in command, "what a stranger can name must not reach a shell"
        if command.startswith("make "):
            called |= {word for word in command.split()[1:] if "=" not in word}
    assert called and called <= TARGETS


def test_ci_runs_what_the_classifiers_promise() -> None:
    promised = re.findall(r"Python :: (3\.\d+)\"", (ROOT / "pyproject.toml").read_text())
    (matrix,) = [
        matrix["python"] for command, matrix in _runs(ROOT / ".github/workflows/ci.yml") if command == "make test"
    ]
    assert matrix == promised


@pytest.mark.parametrize("file", [".pre-commit-config.yaml"])
def test_pre_commit_runs_make(file: str) -> None:
    hooks = [hook for repo in yaml.safe_load((ROOT / file).read_text())["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == ["make lint", "make types"]


def test_the_image_copies_what_exists_and_installs_as_make_does() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert set(copied) == {name for name in kept if "*" not in name}
    assert all((ROOT / name).exists() for name in copied)
    installs = [line for line in lines if "pip install" in line]
    assert all("--constraint constraints.txt" in line for line in installs)
    assert installs[0].endswith(" torch") and installs[1].endswith("'.[codecs]'")
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "codecs" in offered["optional-dependencies"]
    assert f'ENTRYPOINT ["{next(iter(offered["scripts"]))}"]' in lines
    arguments = {word for line in lines if line.startswith("ARG ") for word in re.findall(r"ARG (\w+)=", line)}
    used = set(re.findall(r"\$\{(\w+)\}", "\n".join(line for line in lines if not line.startswith("#"))))
    assert used == arguments


def test_the_devcontainer_installs_by_make() -> None:
    content = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert content["postCreateCommand"].split()[0] == "make"
    assert set(content["postCreateCommand"].split()[1:]) <= TARGETS


def test_one_version_everywhere() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(cited["version"]) == meddap_monai.__version__
    assert cited["license"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "meddap_monai.__version__"}


def test_each_dependency_has_its_lowest_version_and_is_not_below_it() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lowest = dict(line.split("==") for line in (ROOT / "constraints-lowest.txt").read_text().split())
    newest = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    for text in project["dependencies"]:
        needed = Requirement(text)
        (bound,) = needed.specifier
        assert bound.operator == ">=", text
        assert needed.specifier.contains(newest[next(n for n in newest if n.lower() == needed.name.lower())]), text
        assert needed.name == "torch" or lowest[needed.name].startswith(bound.version), text


def test_the_changelog_keeps_its_form() -> None:
    """Keep a Changelog 1.1: versions newest first, each with its day, changes under their kinds."""
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in versions[1:])
    kinds = re.findall(r"^### (.*)$", text, flags=re.MULTILINE)
    assert kinds and set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for version in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        named = re.findall(r"^### (.*)$", version, flags=re.MULTILINE)
        assert len(named) == len(set(named)), "one heading of each kind"
