"""The wheel holds what the checkout holds; installed elsewhere, the package finds it and says what is missing."""

import re
import shutil
import site
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import meddap_monai

ROOT = Path(meddap_monai.__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the checkout")
_SOURCES = ("meddap_monai", "bundles", "configs", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, without network and without leaving anything in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in _SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    words = ["wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *words, str(source)], check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel installed and this one's libraries within reach; its ``bin`` folder."""
    folder = tmp_path_factory.mktemp("environment")
    venv.EnvBuilder(with_pip=True).create(folder)
    binaries = folder / "bin"
    words = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
    subprocess.run([binaries / "python", "-m", "pip", *words], check=True, timeout=300)
    (packages,) = folder.glob("lib/python*/site-packages")
    libraries = [path for path in site.getsitepackages() if Path(path).is_dir()]
    (packages / "libraries.pth").write_text("\n".join(libraries) + "\n")
    return binaries


def _shipped() -> set[str]:
    """What the wheel must hold, named as inside it."""
    names = set()
    for tree, prefix in (("bundles", "meddap_monai/"), ("configs", "meddap_monai/"), ("meddap_monai", "")):
        for path in (ROOT / tree).rglob("*"):
            parts = path.relative_to(ROOT).parts
            if path.is_file() and not {"__pycache__", "runs", "eval"} & set(parts) and not path.name.startswith("."):
                names.add(prefix + path.relative_to(ROOT).as_posix())
    return names


def test_the_wheel_holds_package_bundles_configurations_and_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == _shipped()
    assert "meddap_monai/py.typed" in held, "or type checkers of others take every name for Any"


def test_the_wheel_fits_the_model_zoo_s_and_the_index_s_limits(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        large = {item.filename: item.file_size for item in archive.infolist() if item.file_size > 25e6}
    assert large == {}, "the zoo takes no file above 25 MB"
    assert wheel.stat().st_size < 95e6


def _elsewhere(installed: Path, folder: Path, *words: str, timeout: int = 1800) -> subprocess.CompletedProcess[str]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(installed / words[0]), *words[1:]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bundles/meddap_study/configs/train.yaml", "configs/smoke.yaml", "data/prompts"])
def test_installed_from_the_wheel_everything_is_found(installed: Path, tmp_path: Path, name: str) -> None:
    code = f"import meddap_monai.core.resources as r; print(r.__file__); print(r.find({name!r}))"
    done = _elsewhere(installed, tmp_path, "python", "-c", code)
    module, path = done.stdout.splitlines()
    assert str(installed.parent) in module and path.startswith(str(installed.parent)), done.stderr
    assert Path(path).exists()


@pytest.mark.slow
def test_installed_from_the_wheel_the_demo_runs_from_any_folder(installed: Path, tmp_path: Path) -> None:
    words = ["--output", "here", "--config", "smoke.yaml", "arms=[real, real_synthetic]"]
    done = _elsewhere(installed, tmp_path / "some folder", "meddap", "demo", *words)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "some folder" / "here" / "evaluate" / "report.html").is_file()


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("from meddap_monai import read_ultrasound", "torch monai diffusers peft sklearn matplotlib highdicom"),
        ("from meddap_monai import index, IndexConfig", "torch monai diffusers transformers peft sklearn matplotlib"),
        ("from meddap_monai import LoadUltrasoundd, CropToUltrasoundRegiond", "diffusers peft highdicom"),
        ("from meddap_monai import classify; import meddap_monai.classifier.inference", "diffusers peft highdicom"),
    ],
)  # fmt: skip
def test_what_is_not_used_is_not_loaded(code: str, absent: str) -> None:
    """MONAI itself loads transformers and scikit-learn where they are installed."""
    told = f"{code}; import sys; print(sorted(set({absent.split()!r}) & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", told], text=True).strip() == "[]"


def test_the_description_reads_where_it_stands_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        text = archive.read(name).decode()
    home = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Homepage"]
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(links) > 20 and all(link.startswith(("https://", "#")) for link in links)
    for kind, place in re.findall(rf"\({re.escape(home)}/(blob|raw)/main/([^)#\s]+)", text):
        assert (ROOT / place).exists() and (kind == "raw") == (Path(place).suffix in (".png", ".jpg")), place
    assert f"\nVersion: {meddap_monai.__version__}\n" in text


def _extras() -> dict[str, list[str]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_extras_are_named_in_the_install_page() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    for extra in _extras():
        assert f"`{extra}`" in page, extra


@pytest.mark.parametrize(
    ("package", "code", "says"),
    [
        (
            "torchvision",
            "from meddap_monai.encoders.registry import build_network; "
            "build_network('torchvision:squeezenet1_1', channels=1, classes=2)",
            "torchvision",
        ),
        (
            "timm",
            "from meddap_monai.encoders.registry import build_network; "
            "build_network('timm:mobilenetv3_small_050', channels=1, classes=2)",
            "timm",
        ),
        (
            "onnxruntime",
            "from meddap_monai.classifier.export import WRITERS; WRITERS['.onnx'](None, None, {}, None)",
            "meddap-monai[onnx]",
        ),
        (
            "bitsandbytes",
            "import torch; from meddap_monai.diffusion.adapting.config import AdaptConfig; "
            "from meddap_monai.diffusion.adapting.stage import make_optimizer; "
            "make_optimizer(AdaptConfig(optimizer='adamw8bit'), [], torch.device('cpu'))",
            "pip install 'bitsandbytes>=0.45'",
        ),
    ],
)
def test_a_missing_extra_is_named_with_what_to_install(package: str, code: str, says: str) -> None:
    """For the codecs see R05."""
    block = f"import sys; sys.modules[{package!r}] = None; "
    done = subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True, timeout=300)
    last = done.stderr.strip().splitlines()[-1]
    assert "MissingPackage" in last and "pip install" in last and says in last, done.stderr[-2000:]
