"""Run every GPU code path of this package against the CPU, then measure speed, share of the peak and memory.

    python -m benchmarks.gpu_check wheels --to .whl         # with a network: the packages that PyTorch does not bring
    python -m benchmarks.gpu_check run --wheels .whl        # on the GPU machine, without one; again: goes on
    python -m benchmarks.gpu_check table gpu_check.json     # the Markdown of docs/performance.md

From the root of a checkout, which is all that is read. `run` installs the wheels into a temporary folder, does its
parts one after another, each in a process of its own, and writes one JSON after each. A part that is done is not done
again; one that failed is recorded with its error and done again by the next call; what the time does not allow stays.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    if options.command == "wheels":
        from benchmarks.gpu_check.wheels import gather

        return gather(options.to, options.there, options.python)
    if options.command == "table":
        from benchmarks.gpu_check.table import render

        print(render(options.json))
        return 0
    with tempfile.TemporaryDirectory() as site:
        if options.wheels is not None:
            install(options.wheels, Path(site))
        from benchmarks.gpu_check.run import run

        return run(options)


def install(wheels: Path, site: Path) -> None:
    """Put wheels into a folder that this process and its children import from, before all others."""
    files = sorted(map(str, wheels.glob("*.whl")))
    offline = ["--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", str(site), *files], check=True)
    sys.path.insert(0, str(site))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="do what is not done yet")
    run.add_argument("--output", type=Path, default=Path("gpu_check.json"))
    run.add_argument("--wheels", type=Path, help="folder of wheels to install first, without a network")
    run.add_argument("--device", default="cuda", help="cuda, or cpu to see the check itself run")
    run.add_argument("--toy", action="store_true", help="tiny networks and one step of each measurement")
    run.add_argument("--budget", type=float, default=460.0, help="seconds; a part that does not fit is left")
    run.add_argument("--seconds", type=float, default=3.0, help="per measurement, at least one batch")
    run.add_argument("--only", nargs="*", default=[], help="names of parts")
    gather = commands.add_parser("wheels", help="gather the wheels that `run` installs")
    gather.add_argument("--to", type=Path, default=Path(".whl"))
    gather.add_argument("--there", type=Path, help="`pip list --format=freeze` of the machine: these are left out")
    gather.add_argument("--python", default="3.12", help="version of Python on the machine, x86-64 Linux")
    commands.add_parser("table", help="print the Markdown").add_argument("json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
