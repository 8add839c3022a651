"""What lies already in the folders of a sweep's stages, and what the other stages will fail by; reads only.

Runs as a program of its own (`python -m diht_k8s.cli.sweep_folders`, a JSON list of run documents on stdin), as
`cli.cached_stages` does. The last line that it prints is a JSON object: `stages`, digest of a stage
(`api.hashing.decided_by`) -> `cached` or `begun`, and `problems`, a line each. A stage that it does not name is new as far
as it is known before the stages before have ended.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence

from diht_k8s.api.documents import load
from diht_k8s.api.errors import DihtError, RetryableError
from diht_k8s.api.hashing import decided_by
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun
from diht_k8s.cli.stage import program_of
from diht_k8s.cli.validate import stage_problems
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import find_committed
from diht_k8s.runtime.stage import exit_code_of, locate
from diht_k8s.runtime.started import find_started


def found_stages(runs: Sequence[DihtRun]) -> tuple[dict[str, str], list[str]]:
    """Digest of a stage -> `cached` or `begun`, a stage that several runs share being looked for once; and the problems."""
    found, folders, problems = dict[str, str](), dict[str, str](), list[str]()
    for run in runs:
        with contextlib.suppress(DihtError):  # the run itself will say so
            _look(run, found, folders)
        left = [stage for stage in run.spec.stages if found.get(decided_by(run.spec, stage)) != "cached"]
        with contextlib.suppress(RetryableError):
            problems += [str(each) for each in stage_problems(run, left, whole=False) if each.certain]
    return found, list(dict.fromkeys(problems))


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
        stages, problems = found_stages(runs)
        print(json.dumps({"stages": stages, "problems": problems}), flush=True)

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main())
