"""`diht validate`: every problem of a run document with its line, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from diht_k8s.api.documents import check
from diht_k8s.api.errors import ExitCode, UserError
from diht_k8s.cli.reading import read_text


def validate_command(path: str, overrides: Sequence[str]) -> int:
    """Check a document; 0 or 64."""
    try:
        run, problems = check(read_text(path), overrides=overrides)
    except UserError as error:
        print(f"diht: {error}", file=sys.stderr)
        return error.exit_code
    if run is None:
        print("\n".join(f"{path}: {problem}" for problem in problems), file=sys.stderr)
        return ExitCode.USER_ERROR
    print(f"{path}: valid: run {run.metadata.name}, stages {', '.join(run.spec.stages)}, output {run.spec.data.output}")
    return ExitCode.DONE
