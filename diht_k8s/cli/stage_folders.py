"""The folder that each stage of a run, or of a sweep's runs, finds: what is there, and what the other stages will fail
by.

Runs as a program of its own, so that `diht run` and `sweep` themselves stay small: identifying inputs imports parts of
the recipe. It reads a JSON list of documents, and the last line that it prints is JSON.

    python -m diht_k8s.cli.stage_folders [UNTIL]    # of one run: a list of `StageFolder`; pointers are set
    python -m diht_k8s.cli.stage_folders --sweep    # nothing is written: `stages`, digest of a stage
        # (`api.hashing.decided_by`) -> `cached` or `begun`, and `problems`, a line each. A stage that it does not name
        # is new as far as it is known before the stages before have ended.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from diht_k8s.api.documents import load
from diht_k8s.api.errors import DihtError, RetryableError, UserError
from diht_k8s.api.field_problems import refuse
from diht_k8s.api.hashing import decided_by, differences
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.checks import gpu_warnings, stage_problems
from diht_k8s.cli.placement import this_machine
from diht_k8s.cli.stage import program_of
from diht_k8s.data.shards.storage import Storage
from diht_k8s.pipeline.plan import stages_until
from diht_k8s.runtime.commit import find_committed, find_started
from diht_k8s.runtime.inputs import check_own_inputs, listed
from diht_k8s.runtime.run_folder import layout_at, point, read_document, run_layout, write_document
from diht_k8s.runtime.stage import exit_code_of, locate, why_begun
from diht_k8s.stages.train.shorter_sibling import offer_shorter_sibling


@dataclass(frozen=True)
class StageFolder:
    """What lies in the folder of a stage."""

    stage: str
    cached: bool
    note: str
    """for a person: what is cached though its placement differs, resumed, or new and why; empty where nothing is to
    say.
    """


def stage_folders(run: DihtRun, until: Stage | None = None) -> list[StageFolder]:
    """The stages of a run from the first one on, up to the first that is not cached; pointers are set to those that
    are, and the run's own page is written where its evaluation is.

    Args:
        run: the run as this machine runs it.
        until: its last stage; None runs all.

    Raises:
        UserError: an input lies where a stage writes, or a stage that is not cached will fail; a line for each reason.
    """
    storage = Storage(run.spec.storage)
    check_own_inputs(run, storage)
    layout, before = run_layout(run, storage), layout_at(storage, run.spec.data.output)
    earlier = read_document(run, storage)
    stages = stages_until(run.spec, until)
    found: list[StageFolder] = []
    for place, stage in enumerate(stages):
        try:
            layout, config = locate(program_of(stage), run, storage, layout, stage)
        except UserError:  # by the first of its inputs
            refuse(stage_problems(run, stages[place:], whole=not found))
            raise
        if find_committed(storage, layout, stage) is None:
            begun = find_started(storage, layout, stage) is not None
            unwise = _check(run, stages[place:], whole=not begun and not found)
            why = "resumed" if begun else why_begun(storage, before, layout, stage, config)
            offer = "" if begun or stage is not Stage.TRAIN else offer_shorter_sibling(storage, layout, config)
            found.append(StageFolder(stage, False, "; ".join(part for part in (why, offer, *unwise) if part)))
            break
        point(run, storage, layout, stage)
        program_of(stage).present(run, storage, layout)
        found.append(StageFolder(stage, True, _moved(earlier, run, stage)))
    if earlier != run:
        write_document(run, storage, replace=True)
    return found


def _check(run: DihtRun, stages: Sequence[Stage], *, whole: bool) -> list[str]:
    """What is unwise about stages that begin or go on now.

    Raises:
        UserError: they will fail.
    """
    problems = stage_problems(run, stages, whole=whole)
    refuse(problems)
    gpu = this_machine().gpu if Stage.TRAIN in stages else None
    lacks = [] if gpu is None else gpu_warnings(run, gpu)
    return [f"warning: {each}" for each in (*problems, *lacks)]


def _moved(earlier: DihtRun | None, run: DihtRun, stage: Stage) -> str:
    """What differs from the start before, which is placement: the folder is the same."""
    if earlier is None:
        return ""
    before, after = (
        {stage.value: getattr(each.spec, stage.value).model_dump(mode="json", by_alias=True)} for each in (earlier, run)
    )
    lines = differences(before, after)
    return f"cached ({listed(lines)} is placement)" if lines else ""


def found_stages(runs: Sequence[DihtRun]) -> tuple[dict[str, str], list[str]]:
    """Digest of a stage -> `cached` or `begun`, a stage that several runs share being looked for once; and the
    problems.
    """
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
    """Print what was found; the exit code."""

    def work() -> None:
        runs = [load(text, name="stdin") for text in json.load(sys.stdin)]
        if sys.argv[1:] == ["--sweep"]:
            stages, problems = found_stages(runs)
            print(json.dumps({"stages": stages, "problems": problems}), flush=True)
            return
        until = Stage(sys.argv[1]) if len(sys.argv) > 1 else None
        print(json.dumps([asdict(each) for each in stage_folders(runs[0], until)]), flush=True)

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main())
