"""What lies already in the folders of a sweep's stages; reads only.

Runs as a program of its own (`python -m diht_k8s.cli.sweep_folders`, a JSON list of run documents on stdin), as
`cli.cached_stages` does. The last line that it prints is a JSON object: digest of a stage (`api.hashing.decided_by`) ->
`cached` or `begun`. What it does not name is new as far as it is known before the stages before have ended.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence

from diht_k8s.api.documents import load
from diht_k8s.api.errors import DihtError
from diht_k8s.api.hashing import decided_by
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun
from diht_k8s.cli.stage import program_of
from diht_k8s.recipe.runtime.commit import find_committed
from diht_k8s.recipe.runtime.stage import exit_code_of, locate
from diht_k8s.recipe.runtime.started import find_started
from diht_k8s.recipe.shards.storage import Storage


def found_stages(runs: Sequence[DihtRun]) -> dict[str, str]:
    """Digest of a stage -> `cached` or `begun`; a stage that several runs share is looked for once."""
    found, folders = dict[str, str](), dict[str, str]()
    for run in runs:
        with contextlib.suppress(DihtError):  # the run itself will say so
            _look(run, found, folders)
    return found


def _look(run: DihtRun, found: dict[str, str], folders: dict[str, str]) -> None:
    storage, layout = Storage(run.spec.storage), Layout(run.spec.data.output)
    for stage in run.spec.stages:
        digest = decided_by(run.spec, stage)
        if digest in folders:
            layout = layout.with_folder(stage, folders[digest])
        else:
            layout, _ = locate(program_of(stage), run, storage, layout, stage)
            folders[digest] = layout.stage(stage)
            if find_committed(storage, layout, stage) is not None:
                found[digest] = "cached"
            elif find_started(storage, layout, stage) is not None:
                found[digest] = "begun"
        if found.get(digest) != "cached":
            return


def main() -> int:
    """Print what `found_stages` found; the exit code."""

    def work() -> None:
        runs = [load(text, name="stdin") for text in json.load(sys.stdin)]
        print(json.dumps(found_stages(runs)), flush=True)

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main())
