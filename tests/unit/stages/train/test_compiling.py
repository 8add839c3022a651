from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from diht_k8s.api.errors import UserError
from diht_k8s.stages.train import compiler
from diht_k8s.stages.train.compiler import compile_blocks, require_compiler
from diht_k8s.stages.train.model.student import Student
from tests.recipe.train.small_run import RESNET, VIT


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    with torch._dynamo.config.patch(recompile_limit=8):  # put back at the end
        yield


@pytest.mark.parametrize(
    ("config", "parts"), [(VIT, ["visual.transformer.resblocks"] * 2), (RESNET, ["visual"])], ids=["vit", "resnet"]
)
def test_compile_when_set_then_each_block_and_no_name_of_a_weight_changes(config: dict, parts: list[str]) -> None:
    torch.manual_seed(0)
    model, names = Student(config), list(Student(config).state_dict())
    compile_blocks(model.image_tower, model.clip.transformer)
    compiled = [name for name, module in model.clip.named_modules() if module._compiled_call_impl is not None]
    assert [name.rstrip("0123456789").rstrip(".") for name in compiled] == [*parts, "transformer.resblocks"]
    assert list(model.state_dict()) == names
    assert torch._dynamo.config.recompile_limit == compiler.MAX_VARIANTS


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has no compiler and the headers."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "Python.h").touch()
    return tmp_path


def program(place: Path) -> None:
    place.touch()
    place.chmod(0o755)


@pytest.mark.parametrize(
    ("device", "there", "missing"),
    [
        ("cpu", [], "a C\\+\\+ compiler, and neither CXX nor g\\+\\+ is there"),
        ("cpu", ["gcc", "clang++"], "a C\\+\\+ compiler"),
        ("cpu", ["g++"], None),
        ("cuda", [], "a C compiler, and neither CC nor gcc nor clang is there"),
        ("cuda", ["g++"], "a C compiler"),
        ("cuda", ["clang"], None),
    ],
)
def test_compiler_when_absent_then_refused_before_the_training(
    machine: Path, monkeypatch: pytest.MonkeyPatch, device: str, there: list[str], missing: str | None
) -> None:
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: name)
    for name in there:
        program(machine / name)
    if missing is None:
        require_compiler(device, machine)
        return
    with pytest.raises(UserError, match=f"train.compile needs {missing}"):
        require_compiler(device, machine)


def test_compiler_when_named_by_a_variable_and_absent_then_refused(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(machine / "gcc")
    monkeypatch.setenv("CC", "cc-99")
    with pytest.raises(UserError, match="and CC is cc-99: install gcc"):
        require_compiler("cuda", machine)


def test_compiler_when_headers_or_triton_are_absent_then_refused(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(machine / "gcc")
    with pytest.raises(UserError, match=r"Python's C headers, and .* has no Python.h"):
        require_compiler("cuda", machine / "elsewhere")
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="Triton"):
        require_compiler("cuda", machine)
