"""The wheel installs `components` as a top-level package, so it must hold nothing but signatures."""

from __future__ import annotations

import ast
from pathlib import Path

import components

FOLDER = Path(components.__file__).parent


def test_components_are_one_file_of_signatures() -> None:
    assert [path.name for path in FOLDER.glob("*.*")] == ["__init__.py"]
    _docstring, *rest = ast.parse((FOLDER / "__init__.py").read_text()).body
    functions = [item for item in rest if not isinstance(item, ast.ImportFrom)]
    assert [type(item) for item in functions] == [ast.FunctionDef] * 4
    for function in functions:
        assert isinstance(function, ast.FunctionDef)
        assert ast.get_docstring(function)
        assert [ast.unparse(line).partition("(")[0] for line in function.body[1:]] == ["return stages.component_app"]
