"""No code from data: `trust_remote_code` and pickles are refused everywhere, and SECURITY.md says so."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "diht_k8s").rglob("*.py"), *(ROOT / "components").rglob("*.py")]
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unsafe(source: str) -> list[str]:
    """What of a module could run code from data: calls by name and line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        given = {word.arg: word.value for word in node.keywords}
        name = ast.unparse(node.func)
        owner = name.rpartition(".")[0]
        if "trust_remote_code" in given:
            found.append(f"{name}:{node.lineno}")
        if owner in UNPICKLING or name in ("read_pickle", "pandas.read_pickle"):
            found.append(f"{name}:{node.lineno}")
        if name == "torch.load" and ast.unparse(given.get("weights_only", ast.Constant(None))) != "True":
            found.append(f"{name}:{node.lineno}")
        if (
            owner.split(".")[0] in ("np", "numpy")
            and ast.unparse(given.get("allow_pickle", ast.Constant(False))) != "False"
        ):
            found.append(f"{name}:{node.lineno}")
    return found


def test_no_module_loads_code_from_data() -> None:
    assert {str(path): found for path in SOURCES if (found := unsafe(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "load_dataset(x, trust_remote_code=True)",
        "pickle.loads(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "np.load(x, allow_pickle=True)",
    ],
)
def test_unsafe_call_is_found(source: str) -> None:
    assert len(unsafe(source)) == 1
