"""The console command ``meddap``: thin commands over the functions that the bundles and notebooks call."""

import argparse
import functools
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from meddap_monai import __version__
from meddap_monai.cli.adapters import add_adapter_command
from meddap_monai.cli.command import Command
from meddap_monai.cli.counts import index_counts
from meddap_monai.cli.evaluation import add_evaluation_commands
from meddap_monai.cli.export import add_export_command
from meddap_monai.cli.generation import add_generation_commands
from meddap_monai.cli.keys import add_config_command
from meddap_monai.cli.storage import add_storage_commands
from meddap_monai.errors import Interrupted, MeddapError, StageError
from meddap_monai.store import STAGES, read_stage

_INPUTS = {
    "index": (),
    "cluster": ("records",),
    "pretrain": ("records",),
    "adapt": ("records", "base"),
    "generate": ("records", "base", "adapters"),
    "select": ("records", "generated"),
    "mix": ("records", "kept"),
    "classify": ("records",),
    "evaluate": ("runs", "unseen"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 after one clear sentence on standard error (130 when interrupted)."""
    try:
        options = _parse(arguments)
    except SystemExit as stop:  # after --help, --version, or a sentence about the options
        raise SystemExit(_say("") or stop.code) from None
    try:
        said: str = options.run(options)
    except Interrupted as error:
        print(f"meddap: {error}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:  # in a stage of short steps, which has no moment of its own to stop at
        print("meddap: interrupted; whole files are kept, run the same command again to go on", file=sys.stderr)
        return 130
    except (MeddapError, OSError) as error:
        print(f"meddap: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return _say(said)


def _say(text: str) -> int:
    """Print what a command has to say; return 0, or 2 where standard output is on a full disk or a closed pipe."""
    out = sys.stdout
    try:
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(errors="backslashreplace")  # file names that are no text, locales that lack a letter
        print(text, end="\n" if text else "", flush=True)
    except OSError as error:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), out.fileno())  # or Python fails once more when it ends
        said = f"standard output cannot be written ({error.strerror}); results are in the output folder"
        print(f"meddap: {said}", file=sys.stderr)
        return 2
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a command line; ``ID=VALUE`` may stand before, between and after them."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and (any(word.startswith("-") for word in rest) or not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    output = getattr(options, "output", Path())
    if str(output) != str(output).encode(errors="replace").decode():
        parser.error(f"--output: {str(output)!r} is no text in UTF-8; TensorBoard needs one, give another name")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="meddap", description=__doc__)
    parser.add_argument("--version", action="version", version=f"meddap-monai {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Command)
    for stage in STAGES:
        command = _command(commands, stage, f"run the stage {stage} alone", _run_stage)
        command.set_defaults(stage=stage)
        command.configuration = functools.partial(_config_of, stage)
        command.epilog = "engine#KEY=VALUE says where units are worked on; meddap config engine lists its keys."
        for name in _INPUTS[stage]:
            many = name in ("adapters", "runs")
            required = name in ("records", "generated", "runs")
            command.add_argument(f"--{name}", nargs="*" if many else None, required=required, help=_HELP[name])
    study = _command(commands, "study", "run a whole study from one configuration", _run_study)
    demo = _command(commands, "demo", "the whole job on simulated ultrasound, offline, in minutes", _run_demo)
    demo.set_defaults(output=Path("demo"))
    for command in (study, demo):
        command.configuration, command.without = _study_config, (*STAGES, "unseen", "unlabelled")
        command.epilog = "Keys of a stage are written STAGE#KEY=VALUE; meddap STAGE --help lists them."
    add_config_command(commands)
    _add_review(commands)
    _add_join(commands)
    add_adapter_command(commands)
    add_generation_commands(commands)
    add_evaluation_commands(commands)
    add_export_command(commands)
    add_storage_commands(commands)
    return parser


_SIMULATED = {"index#source": "simulated", "unseen#source": "simulated"}
"""A demo makes its sources."""
_HELP = {
    "records": "records file of index (or of cluster for adapt, of mix for classify)",
    "base": "'embedded' (default), a local Stable Diffusion folder, or a hub id",
    "adapters": "adapter folders",
    "generated": "generated.jsonl of generate",
    "kept": "kept.jsonl of select",
    "runs": "classifier folders, each as ARM:SEED:MODEL_FOLDER:RECORDS_FILE",
    "unseen": "records file of the unseen set",
}


def _command(commands: Any, name: str, text: str, run: Callable[[argparse.Namespace], str]) -> Command:
    command: Command = commands.add_parser(name, help=text, description=text)
    command.add_argument(
        "--output", type=Path, default=Path("runs") / name, help="output folder (default: %(default)s)"
    )
    command.add_argument("--config", action="append", default=[], help="overlay with full ids, e.g. configs/smoke.yaml")
    command.add_argument("--overwrite", action="store_true", help="replace an output of another configuration")
    command.add_argument(
        "--trust-config",
        action="store_true",
        help="let MONAI run code in overlays and overrides, instead of refusing it",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="say what would run, how long and how large; write nothing"
    )
    command.add_argument(
        "overrides", nargs="*", metavar="ID=VALUE", help="e.g. generate#steps=20, or steps=20 in a stage"
    )
    command.set_defaults(run=run)
    return command


def _add_join(commands: Any) -> None:
    command = commands.add_parser("join", help="join several outputs of generate, such as those of a job array")
    command.add_argument("parts", nargs="+", type=Path, help="output folders of generate")
    command.add_argument("--output", type=Path, required=True)
    command.add_argument("--overwrite", action="store_true", help="replace a join of other parts")
    command.set_defaults(run=_run_join)


def _add_review(commands: Any) -> None:
    command = commands.add_parser("review", help="serve the blinded reading form on this machine")
    command.add_argument("--records", required=True, help="records file with real images")
    command.add_argument("--generated", required=True, help="generated.jsonl or kept.jsonl")
    command.add_argument("--output", type=Path, default=Path("runs/review"))
    command.add_argument("--reader", required=True, help="who reads, e.g. reader1")
    command.add_argument("--port", type=int, default=8008)
    command.add_argument("--images", type=int, default=60, help="images to read, half of them synthetic")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--report", type=Path, help="folder of a finished evaluation whose report shows the table")
    command.set_defaults(run=_run_review)


# ---------------------------------------------------------------------------------------------------- configuration
def _config_of(stage: str) -> type:
    from meddap_monai.study.config import config_of

    return config_of(stage)


def _study_config() -> type:
    from meddap_monai.study.config import StudyConfig

    return StudyConfig


# --------------------------------------------------------------------------------------------------------- commands
def _run_stage(options: argparse.Namespace) -> str:
    from meddap_monai.core.configuration import build
    from meddap_monai.study.sections import load_sections

    sections = load_sections(options.config, options.overrides, options.stage, options.trust_config)
    config = build(_config_of(options.stage), sections.get(options.stage) or {}, options.stage)
    inputs = {name: value for name in _INPUTS[options.stage] if (value := getattr(options, name)) is not None}
    if options.dry_run:
        from meddap_monai.study.dry_run import dry_stage

        return dry_stage(options.stage, config, options.output, inputs)
    from meddap_monai.engines.config import EngineConfig
    from meddap_monai.engines.engine import use_engine
    from meddap_monai.study import run_stage

    with use_engine(build(EngineConfig, sections.get("engine") or {}, "engine")):
        result = run_stage(options.stage, config, options.output, inputs, options.overwrite)
    if options.stage == "index":
        return index_counts(result)
    said = read_stage(options.output).get("said")  # one sentence of the stage about its result
    return f"{result}\n{said}" if said else str(result)


def _run_join(options: argparse.Namespace) -> str:
    from meddap_monai.study.join import join_generated

    return str(join_generated(options.output, options.parts, options.overwrite))


def _run_study(options: argparse.Namespace) -> str:
    from meddap_monai.study.command import with_command
    from meddap_monai.study.config import read_study
    from meddap_monai.study.sections import load_sections

    sections = load_sections(options.config, options.overrides, trust=options.trust_config)
    told = with_command(sections, "study", options.config, options.overrides)
    study, variants = read_study(told)
    if options.dry_run:
        from meddap_monai.study.dry_run import dry_study

        return dry_study(variants, study, options.output)
    from meddap_monai.study import run_study

    report = run_study(options.output, told, options.overwrite)
    return f"report: {report.resolve()}\n{_curves(options.output)}"


def _run_demo(options: argparse.Namespace) -> str:
    from meddap_monai.study.config import override, read_study
    from meddap_monai.study.sections import load_sections

    sections = load_sections(["demo.yaml", *options.config], options.overrides, trust=options.trust_config)
    study, variants = read_study(override(sections, _SIMULATED, "demo"))
    if options.dry_run:
        from meddap_monai.study.dry_run import dry_study

        return dry_study(variants, study, options.output)
    from meddap_monai.study.demo import run_demo

    report = run_demo(options.output, options.config, options.overrides, options.overwrite, options.trust_config)
    return f"report: {report.resolve()}\n{_curves(options.output)}"


def _curves(output: Path) -> str:
    return f"curves and pictures: tensorboard --logdir {output / 'tensorboard'}"


def _run_review(options: argparse.Namespace) -> str:
    from meddap_monai.reading_form.review import review

    if options.report is not None and not (options.report / "report.json").is_file():
        raise StageError(f"--report: {options.report} holds no report.json; give the folder of a finished evaluate")
    review(
        options.output,
        records=Path(options.records),
        generated=Path(options.generated),
        reader=options.reader,
        images=options.images,
        seed=options.seed,
        port=options.port,
    )
    if options.report is None:
        return ""
    from meddap_monai.evaluation.redraw import redraw

    return f"report: {redraw(options.report, reading=options.output).resolve()}"


if __name__ == "__main__":
    sys.exit(main())
