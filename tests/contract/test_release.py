"""A release, rehearsed with images that a stand-in makes: the documented commands pass on it, and on nothing that was
changed.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from diht_k8s import __version__
from tests.contract.charts import rendered
from tools.release.documented import verify
from tools.release.programs import program
from tools.release.publishing import KEY, ROOT, SUMS, Release, rehearsal
from tools.release.signing import generated_key

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the first one builds cosign and syft
PAGE = (ROOT / "docs/install.md").read_text()
BASE = f"registry.example.org/python:3.11@sha256:{'a' * 64}"
BUILDER = """#!/bin/sh
# builds nothing; pushes an image with one file, which is its name
[ "$1" = push ] || exit 0
for image; do :; done
echo "$image" > {folder}/file && tar -C {folder} -cf {folder}/layer.tar file
exec {crane} append --oci-empty-base --new_layer {folder}/layer.tar --new_tag "$image"
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Of this checkout's commit, with both images."""
    if not shutil.which("go"):
        pytest.skip("no Go, which builds cosign and the registry")
    folder = tmp_path_factory.mktemp("builder")
    builder = folder / "docker"
    builder.write_text(BUILDER.format(folder=folder, crane=program("crane")))
    builder.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUILDER", str(builder))
        patch.setenv("BASE", BASE)
        with rehearsal(tmp_path_factory.mktemp("release"), ["operator", "recipe"]) as made:
            yield made


def verified(release: Release, dist: Path) -> bool:
    """Whether the documented commands pass in a folder."""
    try:
        verify(PAGE, dist, release.registry, dist / KEY)
    except subprocess.CalledProcessError:
        return False
    return True


def crane(*words: str) -> str:
    return subprocess.run([program("crane"), *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def dist(release: Release, tmp_path: Path) -> Path:
    """A copy of the files of the release, to be changed."""
    return Path(shutil.copytree(release.dist, tmp_path / "dist"))


def test_release_has_packages_chart_bills_sums_statement_and_key_and_passes_the_documented_verification(
    release: Release, dist: Path
) -> None:
    assert {path.name for path in dist.iterdir() if not path.name.startswith("requirements-")} == {
        f"diht_k8s-{__version__}-py3-none-any.whl",
        f"diht_k8s-{__version__}.tar.gz",
        f"diht-operator-{__version__}.tgz",
        "diht-k8s-base.cdx.json",
        "diht-k8s-operator.cdx.json",
        "diht-k8s-recipe.cdx.json",
        "diht-operator.cdx.json",
        "diht-recipe.cdx.json",
        "images.txt",
        "SHA256SUMS",
        "provenance.sigstore.json",
        "cosign.pub",
    }
    assert release.digests.keys() == {"diht-operator", "diht-recipe", "charts/diht-operator"}
    assert verified(release, dist)


def append_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def tampered(release: Release, name: str) -> str:
    """A copy of an image or chart with one more layer, under the same tag; returns its digest."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("backdoor"))
    reference = f"{release.registry}/{name}"
    done = subprocess.run(
        [
            program("crane"),
            "append",
            "--base",
            f"{reference}@{release.digests[name]}",
            "--new_layer",
            "-",
            "--new_tag",
            f"{reference}:{__version__}",
        ],
        check=True,
        capture_output=True,
        input=layer.getvalue(),
    )
    return done.stdout.decode().strip().partition("@")[2]


def other_image(release: Release, dist: Path) -> None:
    replaced(dist / "images.txt", release.digests["diht-operator"], tampered(release, "diht-operator"))


def other_image_in_sums(release: Release, dist: Path) -> None:
    other_image(release, dist)
    sums = [line for line in (dist / SUMS).read_text().splitlines() if "images.txt" not in line]
    (dist / SUMS).write_text("\n".join(sums))


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


CHANGES: dict[str, Callable[[Release, Path], None]] = {
    "a byte of the wheel": lambda release, dist: append_byte(dist / f"diht_k8s-{__version__}-py3-none-any.whl"),
    "a byte of the chart": lambda release, dist: append_byte(dist / f"diht-operator-{__version__}.tgz"),
    "a byte of an image's bill of materials": lambda release, dist: append_byte(dist / "diht-operator.cdx.json"),
    "the sums": lambda release, dist: append_byte(dist / SUMS),
    "the list of images": other_image,
    "the list of images, which the sums no longer name": other_image_in_sums,
    "the key": lambda release, dist: shutil.copy(
        Path(generated_key(dist.parent / "other")).with_suffix(".pub"), dist / KEY
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_file_is_refused(release: Release, dist: Path, change: str) -> None:
    CHANGES[change](release, dist)
    assert not verified(release, dist)


def test_chart_of_a_release_pins_the_images_of_that_release(release: Release, dist: Path) -> None:
    images = {name: f"{release.registry}/{name}@{release.digests[name]}" for name in ("diht-operator", "diht-recipe")}
    chart, helm = dist / f"diht-operator-{__version__}.tgz", str(program("helm"))
    objects = rendered(helm, {}, chart=chart)
    deployment = next(each for each in objects if each["kind"] == "Deployment")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == images["diht-operator"]
    tested = next(each["spec"]["containers"][0] for each in objects if each["kind"] == "Pod")
    variables = {each["name"]: each["value"] for each in tested["env"]}
    assert (tested["image"], json.loads(variables["PODS"])["image"]) == (images["diht-operator"], images["diht-recipe"])
    shown = subprocess.run([helm, "show", "chart", chart], check=True, capture_output=True, text=True)
    named = yaml.safe_load(yaml.safe_load(shown.stdout)["annotations"]["artifacthub.io/images"])
    assert named == [{"name": name, "image": image} for name, image in images.items()]
