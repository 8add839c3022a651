"""The images that `make images` builds: small, reproducible, in layers of which a change of the code changes one. With
buildah, no registry.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diht_k8s import __version__
from tests.cluster.buildah import BASE, buildah, settings
from tests.cluster.charts import build_operator_image
from tests.cluster.tools import CLUSTER, PROJECT, cannot

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
RECIPE_DISK_GB = 20
"""Free space that the recipe's build takes for a while: its layers, in containers and the store, and the largest twice
as a file.
"""
CODE_MB = 20
MADE = [("first", "operator"), ("second", "operator"), ("third", "operator"), ("slow", "recipe"), ("slow-2", "recipe")]
"""Prefix and image."""
BUILD_TOOLS = ("pip", "pip3", "gcc", "g++", "cc", "c++", "make", "ld", "git", "curl")


@pytest.fixture(scope="module")
def builder(own: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Buildah over the images of the test cluster, as a program; the base is there. What the tests made goes."""
    if not own:
        cannot("KUBECONFIG is another cluster's: images are built for the one beside this file")
    build_operator_image()
    program = buildah(tmp_path_factory.mktemp("bin"))
    yield program
    for prefix, image in MADE:  # most runs have made none of them
        subprocess.run([program, "rmi", f"localhost/{prefix}/diht-{image}:{__version__}"], capture_output=True)


def make(builder: Path, image: str, prefix: str, context: Path, flags: str = "") -> str:
    """`make images` for one image, from a checkout; returns the image's name."""
    environment = {**os.environ, **settings(builder, flags), "IMAGE_PREFIX": prefix}
    subprocess.run([context / "images/build", image], check=True, env=environment)
    return f"{prefix}diht-{image}:{__version__}"


def inspect(builder: Path, image: str) -> dict[str, Any]:
    done = subprocess.run([builder, "inspect", "--type=image", image], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["OCIv1"]


def layers(builder: Path, image: str) -> dict[str, float]:
    """Digests of its layers, as they are unpacked, and their sizes in MB; the last one is on top."""
    done = subprocess.run([builder, "inspect", "--type=image", image], check=True, capture_output=True, text=True)
    manifest = json.loads(json.loads(done.stdout)["Manifest"])
    return {layer["digest"]: layer["size"] / 1e6 for layer in manifest["layers"]}


def change_a_line(context: Path) -> None:
    """Of the code, in a checkout."""
    with (context / "diht_k8s/__init__.py").open("a") as file:
        file.write("\nCHANGED = True\n")


def size_mb(builder: Path, image: str) -> float:
    done = subprocess.run([builder, "images", "--json", image], check=True, capture_output=True, text=True)
    number, unit = json.loads(done.stdout)[0]["size"].split()
    return float(number) * {"MB": 1, "GB": 1000}[unit]


def run(builder: Path, image: str, user: str, *command: str) -> str:
    """What a command prints in a container of the image, as a user."""
    container = subprocess.run([builder, "from", image], check=True, capture_output=True, text=True).stdout.strip()
    try:
        done = subprocess.run(
            [builder, "run", "--user", user, container, "--", *command], check=True, capture_output=True, text=True
        )
        return done.stdout
    finally:
        subprocess.run([builder, "rm", container], check=True, capture_output=True)


def checkout(folder: Path) -> Path:
    """The commit, so that nobody's edit comes between two builds."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=PROJECT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    return folder


def test_operator_image_is_small_has_a_numeric_user_and_neither_torch_nor_what_builds(builder: Path) -> None:
    image = "localhost/local/diht-operator:test"
    assert size_mb(builder, image) - size_mb(builder, BASE) <= 200
    config = inspect(builder, image)["config"]
    assert config["User"] == "65532:65532"
    assert config["Labels"]["org.opencontainers.image.title"] == "diht-operator"
    listing = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    packages = run(builder, image, "65532:65532", "python3", "-c", listing).split()
    assert "diht-k8s" in packages
    assert not {"torch", "pip", "setuptools", "wheel", "spacy", "rapidocr"} & set(packages)
    finding = "import shutil, sys; print(*filter(shutil.which, sys.argv[1:]))"
    assert run(builder, image, "65532:65532", "python3", "-c", finding, "sh", *BUILD_TOOLS).split() == ["sh"]
    theirs = "import importlib.util as i; print([m for m in ('pip', 'setuptools', 'wheel') if i.find_spec(m)])"
    assert run(builder, image, "65532:65532", "/usr/bin/python3", "-c", theirs).strip() == "[]"


@pytest.mark.slow
def test_operator_image_has_the_same_layers_in_each_build_but_that_of_the_code_when_it_changes(
    builder: Path, tmp_path: Path
) -> None:
    context = checkout(tmp_path / "checkout")
    first, second = (
        layers(builder, make(builder, "operator", f"localhost/{name}/", context, "--no-cache"))
        for name in ("first", "second")
    )
    assert first == second
    change_a_line(context)
    third = layers(builder, make(builder, "operator", "localhost/third/", context, "--no-cache"))
    assert_only_the_code_is_new(first, third)


def assert_only_the_code_is_new(before: dict[str, float], after: dict[str, float]) -> None:
    *kept, code = after
    assert kept == list(before)[:-1]
    assert code not in before
    assert after[code] <= CODE_MB


@pytest.mark.slow
def test_recipe_image_runs_its_programs_has_the_compiler_of_train_compile_and_its_code_in_a_layer(
    builder: Path, tmp_path: Path, record_property: Any
) -> None:
    if shutil.disk_usage(CLUSTER).free < RECIPE_DISK_GB * 1e9:
        cannot(f"the recipe's image needs {RECIPE_DISK_GB} GB of free disk while it is built")
    context = checkout(tmp_path / "checkout")
    image = make(builder, "recipe", "localhost/slow/", context)
    size = size_mb(builder, image) - size_mb(builder, BASE)
    record_property("recipe_image_mb_above_base", size)
    print(f"the recipe's image is {size:.0f} MB above its base")
    environment = dict(pair.split("=", 1) for pair in inspect(builder, image)["config"]["Env"])
    assert environment["WDS_SECURE"] == "1"
    assert "filter" in run(builder, image, "10001:10001", "diht", "stage", "--help")
    check = "from diht_k8s.stages.train.compiler import require_compiler as r; r('cpu'); r('cuda')"
    assert run(builder, image, "10001:10001", "python3", "-c", check) == ""
    program = "import torch, deepspeed, open_clip; print(torch.version.cuda, torch.ones(2).sum().item())"
    assert run(builder, image, "10001:10001", "python3", "-c", program).split()[-1] == "2.0"
    before = layers(builder, image)
    change_a_line(context)
    assert_only_the_code_is_new(before, layers(builder, make(builder, "recipe", "localhost/slow-2/", context)))
