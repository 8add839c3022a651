"""The first hour on a machine with cards, in one command: `make first-hour`.

Describes the machine, runs the GPU tier file by file, measures our side of the benchmark in short windows, and packs
all that was said and measured into one archive to send back. A part that fails or hangs does not stop the others.
Started again, it repeats the parts that failed (`--again`: all). `DIHT_GPU_TESTS_ON=cpu` makes it a dry run of two
minutes: a few scenarios and a tiny model, whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.gpu.process import AGAIN
from tests.gpu.devices import VARIABLE

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "first-hour"
REHEARSAL = ROOT / "build" / "first-hour-rehearsal"
"""Apart, so that no part of a dry run counts as done on the cards."""
TIMED_OUT = 124
"""Code of a part that was ended after its limit, as timeout(1) has it."""
MAX_FILE_BYTES = 32 << 20
"""Larger files are data that the benchmark has drawn, not results."""

DESCRIBED: tuple[tuple[str, ...], ...] = (
    ("nvidia-smi",),
    ("nvidia-smi", "-q"),
    ("nvidia-smi", "topo", "-m"),
    ("nvidia-smi", "nvlink", "--status"),
    ("ibv_devinfo",),
    ("lscpu",),
    ("free", "-g"),
    ("df", "-h", "/dev/shm", "."),
    ("uname", "-srm"),
    ("git", "log", "-1", "--format=%H %cd"),
    ("git", "status", "--short"),
    (sys.executable, "-m", "torch.utils.collect_env"),
    (sys.executable, "-m", "pip", "list"),
)


@dataclass(frozen=True)
class Part:
    """A command with its own log."""

    name: str
    command: Sequence[str]
    limit_s: float
    minutes: str
    """that it takes on eight cards, roughly; nobody has measured it."""


@dataclass(frozen=True)
class Ended:
    """How a part ended."""

    code: int
    seconds: float
    last: str
    """line that it said."""
    kept: bool = False
    """from an earlier call."""


def parts_of(folder: Path, *, dry: bool) -> list[Part]:
    """What is run, in order: what tells most in the least time comes first."""

    def tier(name: str, chosen: str, limit_s: float, minutes: str) -> Part:
        only = ("-k", chosen) if dry else ()
        command = (
            sys.executable,
            "-m",
            "pytest",
            "-v",
            "-rA",
            "--tb=long",
            "-p",
            "no:cacheprovider",
            "--color=no",
            f"--junitxml={folder}/{name}.xml",
            f"tests/gpu/test_{name}.py",
            *only,
        )
        return Part(name, command, limit_s, minutes)

    benchmark = [sys.executable, "-m", "benchmarks.gpu", "--results", f"{folder}/benchmark"]
    smallest = ("--smoke", "--cards", "1", "--only", "HN-NCE alone")
    ours = ("--window", "30", "--only", "ours, HN-NCE", "--only", "HN-NCE alone")
    return [
        Part("machine", (sys.executable, "-m", "tests.gpu.first_hour", "--describe"), 300, "1"),
        tier("losses", "divided and 0.25", 900, "1"),
        tier("stage", "in_place", 2400, "6"),
        tier("memory", "activation and one", 1800, "4"),
        tier("curves", "sums and all", 3600, "12"),
        Part("benchmark", (*benchmark, *(smallest if dry else ours)), 5400, "30"),
    ]


def run(part: Part, folder: Path, environment: Mapping[str, str]) -> Ended:
    """Run a part, or take its result of an earlier call if it went well.

    Args:
        part: which.
        folder: of logs and results.
        environment: of its processes.
    """
    place = folder / f"{part.name}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        earlier = Ended(**json.loads(place.read_text()))
        if earlier.code == 0:
            return Ended(earlier.code, earlier.seconds, earlier.last, kept=True)
    began, log = time.monotonic(), folder / f"{part.name}.log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            part.command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        ) as process,
    ):
        try:
            code = process.wait(part.limit_s)
        except subprocess.TimeoutExpired:
            code = TIMED_OUT
        finally:
            _kill(process)
    code = code or _benchmark_code(folder, part)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    ended = Ended(code, round(time.monotonic() - began, 1), lines[-1].strip("= ")[:90] if lines else "")
    place.write_text(json.dumps(asdict(ended)))
    return ended


def _benchmark_code(folder: Path, part: Part) -> int:
    """1 if cases of the benchmark failed, which it records as a result."""
    if part.name != "benchmark":
        return 0
    rows = json.loads((folder / "benchmark" / "results.json").read_text())["cases"]
    return int(any(row["outcome"] in AGAIN for row in rows))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a part; ranks and launchers are in sessions of their own."""
    import psutil

    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for each in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


def summary(results: Mapping[str, Ended], archive: Path) -> str:
    """A line for each part, what failed, and where the archive is."""
    words = {0: "ok", TIMED_OUT: "ended after its limit"}
    lines = [
        (
            f"{name:10} {words.get(each.code, f'failed ({each.code})'):22} {each.seconds:7.0f} "
            f"s{' (kept)' if each.kept else ''}  {each.last}"
        )
        for name, each in results.items()
    ]
    failed = [name for name, each in results.items() if each.code]
    lines.append(f"failed: {', '.join(failed)}; start again to repeat them" if failed else "all parts went well")
    return "\n".join([*lines, f"send back: {archive}"])


def pack(folder: Path, archive: Path) -> None:
    """Put logs and results into an archive; data stays out."""
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            data = any(part.startswith(("data-", "case-")) for part in inside.parts)
            if path.is_file() and path != archive and not data and path.stat().st_size <= MAX_FILE_BYTES:
                tar.add(path, Path("first-hour") / inside)


def describe() -> None:
    """Print what each command of DESCRIBED says; one that is not there is no failure."""
    for command in DESCRIBED:
        print(f"\n$ {' '.join(command)}", flush=True)
        try:
            subprocess.run(command, check=False, timeout=120, cwd=ROOT)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"not available: {error}", flush=True)
    for name, value in sorted(os.environ.items()):
        if name.startswith(("NCCL_", "CUDA_", "TORCH_", "GLOO_")):
            print(f"{name}={value}")


def main(given: Sequence[str] | None = None) -> int:
    """Run the parts, print the summary; 1 if any failed."""
    parser = argparse.ArgumentParser(prog="make first-hour", description=__doc__)
    parser.add_argument("--again", action="store_true", help="repeat what went well, too")
    dry = bool(os.environ.get(VARIABLE))
    parser.add_argument(
        "--folder", type=Path, default=REHEARSAL if dry else FOLDER, help="of logs and results (default: %(default)s)"
    )
    parser.add_argument("--describe", action="store_true", help="only describe the machine")
    arguments = parser.parse_args(given)
    if arguments.describe:
        describe()
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a part's processes are ended, too
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.again:
        for path in folder.glob("*.json"):
            path.unlink()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "NCCL_DEBUG": os.environ.get("NCCL_DEBUG", "WARN"),
    }
    results: dict[str, Ended] = {}
    for part in parts_of(folder, dry=dry):
        expected = "" if dry else f", about {part.minutes} min"
        print(f"{time.strftime('%T')} {part.name}{expected}: {folder / part.name}.log", flush=True)
        results[part.name] = run(part, folder, environment)
    archive = folder.with_suffix(".tar.gz")
    text = summary(results, archive)
    (folder / "summary.txt").write_text(text + "\n")
    pack(folder, archive)
    print(text)
    return int(any(each.code for each in results.values()))


if __name__ == "__main__":
    sys.exit(main())
