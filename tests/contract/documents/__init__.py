"""Run documents that are good or bad, as text. Files (pydantic) and the API server must give the same verdict on each.

`says` is what both messages contain; a rule that only one side knows has no place in the contract. `only_file` is
what the file's message adds where the API server words it in its own way.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.unit.api.documents import changed


@dataclass(frozen=True)
class Case:
    """A document and its verdict."""

    name: str
    text: str
    good: bool
    says: str = ""
    only_file: str = ""


def good(name: str, **changes: Any) -> Case:
    """The minimal document with changes that make no harm."""
    return Case(name, json.dumps(changed(**changes)), good=True)


def bad(name: str, says: str = "", only_file: str = "", **changes: Any) -> Case:
    """The minimal document with changes that must be refused."""
    return Case(name, json.dumps(changed(**changes)), good=False, says=says, only_file=only_file)


def yaml_run(spec: str, *, metadata: str = "{name: a-run}") -> str:
    """A document in YAML's own words: `spec` is indented below a filter-free training run."""
    return f"""
apiVersion: diht.dev/v1alpha1
kind: DihtRun
metadata: {metadata}
spec:
  data: {{sources: [{{name: web, shards: [a.tar]}}], output: out}}
{spec}
"""
