"""Removal of what no run of an output refers to, to free its space.

In: an output, and the runs that shall stay. Out: a plan for each folder, then the folders without what we wrote there.
Whatever a person put beside it stays, and so does a folder that is not ours or in which somebody works.

Runs go before the folders that only they refer to. In each folder `COMMITTED.json` goes first and `STARTED.json` last
(`api.layout.STAGE_FILES`), so an interrupted prune leaves nothing that looks complete, and the same command goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import FEATURE_FILES, RUN_FILES, STAGE_FILES, join, pattern_of
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage, temporary_of
from diht_k8s.runtime.claims import Watch, living
from diht_k8s.runtime.references import (
    FEATURES,
    RUNS,
    StoredRun,
    StoredStage,
    feature_sets,
    reached,
    run_folders,
    stage_folders,
)
from diht_k8s.runtime.run_folder import lead_latest
from diht_k8s.runtime.signals import StopFlag

State = Literal["complete", "begun", "foreign", "run", "features"]


@dataclass(frozen=True)
class Place:
    """A folder of an output, and what a prune does with it."""

    folder: str
    """relative to the output."""
    state: State
    """begun: not complete. foreign: not ours, so it stays. run: the folder of a run. features: images' features under a
    locked tower, for all trainings on such; they stay while one of these does."""
    bytes: int
    files: int
    runs: list[str] = field(default_factory=list)
    """NAME/DIGEST of the runs that refer to it."""
    removable: bool = False
    in_use: str = ""
    """the claim or lease by which somebody works there; it stays."""
    frees: int = 0
    """bytes that go."""
    foreign_files: list[str] = field(default_factory=list)
    """files that no stage wrote, relative to the folder; they stay."""


@dataclass(frozen=True)
class Plan:
    """What lies in an output."""

    output: str
    places: list[Place]
    """the largest first."""
    kept: list[str]
    """NAME/DIGEST of the runs that stay."""

    @property
    def removable(self) -> list[Place]:
        """What goes, in that order: runs, then folders before those that they read."""
        order = [RUNS, *(stage.value for stage in reversed(Stage)), FEATURES]
        found = [place for place in self.places if place.removable]
        return sorted(found, key=lambda place: (order.index(place.folder.partition("/")[0]), place.folder))


def make_plan(storage: Storage, output: str, keep: Collection[str] | None = None) -> Plan:
    """Find what lies in an output, and who refers to it; removes nothing and watches no claims.

    Args:
        storage: where the output is.
        output: its URI or path.
        keep: NAME or NAME/DIGEST of the runs whose references count; None takes all of them.

    Raises:
        UserError: the output has an old layout, or a run to keep is not there.
        DataError: a pointer or a run's document is damaged.
    """
    use = _use(storage, output, keep, {})
    return _measured(storage, output, use, use.removable)


def plan_to_remove(
    storage: Storage, output: str, keep: Collection[str] | None, stop: StopFlag, *, watch: Watch = living
) -> Plan:
    """The plan without what somebody uses: watches the claims in what would go, and in what its runs refer to.

    Args:
        storage: where the output is.
        output: its URI or path.
        keep: as of `make_plan`.
        stop: checked while claims are watched.
        watch: says in which folders somebody works.

    Raises:
        UserError, DataError: as `make_plan`.
        StopRequested: a signal.
    """
    before = _use(storage, output, keep, {})
    watched = {*before.features, *(folder.place for folder in before.folders)} & before.removable
    watched = watched.union(*(run.refers for run in before.runs if run.place in before.removable))
    uris = {join(output, place): place for place in sorted(watched)}
    alive = {uris[uri]: claim for uri, claim in watch(storage, uris, stop).items()}
    after = _use(storage, output, keep, alive)  # somebody may have come while this one watched
    return _measured(storage, output, after, before.removable & after.removable)


@dataclass(frozen=True)
class _Use:
    """Who uses what."""

    runs: list[StoredRun]
    folders: list[StoredStage]
    features: list[str]
    """places of the sets of stored features."""
    kept: list[StoredRun]
    users: dict[str, list[str]]
    """place of a stage folder -> NAME/DIGEST of the runs that refer to it."""
    removable: set[str]
    """places of runs and stage folders."""
    alive: dict[str, str]
    """place of a stage folder in which somebody works -> the claim that says so."""


def _use(storage: Storage, output: str, keep: Collection[str] | None, alive: dict[str, str]) -> _Use:
    """A folder in which somebody works stays, with all that it and the runs that refer to it need."""
    folders, runs = list(stage_folders(storage, output)), list(run_folders(storage, output))
    _refuse_unknown(keep or (), runs, output)
    kept = [run for run in runs if keep is None or _is_named(run, keep) or not run.refers.isdisjoint(alive)]
    reads = {folder.place: folder.reads for folder in folders}
    needed = reached([*alive, *(place for run in kept for place in run.refers)], reads)
    users: dict[str, list[str]] = {}
    for run in runs:
        for place in reached(run.refers, reads):
            users.setdefault(place, []).append(_name(run.place))
    features, readers = list(feature_sets(storage, output)), {each.place for each in folders if each.stored_features}
    for place in features:
        users[place] = sorted({run for reader in readers for run in users.get(reader, ())})
    ours = {folder.place for folder in folders if folder.state != "foreign"}
    going = (ours - needed) | {run.place for run in runs if run not in kept}
    if readers.isdisjoint(needed):
        going |= set(features) - alive.keys()
    return _Use(runs, folders, features, kept, users, going, alive)


def _measured(storage: Storage, output: str, use: _Use, removable: Collection[str]) -> Plan:
    def place(at: str, state: State, patterns: Sequence[str]) -> Place:
        sizes = storage.sizes(join(output, at))
        ours = [] if state == "foreign" else [name for name in sizes if pattern_of_file(name, patterns) is not None]
        return Place(
            at,
            state,
            sum(sizes.values()),
            len(sizes),
            sorted(use.users.get(at, ())),
            removable=at in removable,
            frees=sum(sizes[name] for name in ours) if at in removable else 0,
            in_use=use.alive.get(at, ""),
            foreign_files=sorted(sizes.keys() - ours),
        )

    found = [place(run.place, "run", RUN_FILES) for run in use.runs]
    found += [place(folder.place, folder.state, STAGE_FILES[folder.stage]) for folder in use.folders]
    found += [place(each, "features", FEATURE_FILES) for each in use.features]
    found = sorted((each for each in found if each.files), key=lambda each: (-each.bytes, each.folder))
    return Plan(output, found, [_name(run.place) for run in use.kept])


def remove(
    storage: Storage, plan: Plan, stop: StopFlag, advance: Callable[[int], object] = lambda files: None
) -> list[Place]:
    """Remove what a plan names as removable.

    Args:
        storage: where the output is.
        plan: of `plan_to_remove`.
        stop: checked between some files.
        advance: gets the number of files that have gone since the last call.

    Returns:
        What has gone: a folder to which a run has come to refer meanwhile stays.

    Raises:
        StopRequested: a signal; the same command goes on.
    """
    gone: list[Place] = []
    for place in plan.removable:
        if place.state == "run":
            lead_latest(storage, plan.output, place.folder, f"{RUNS}/{plan.kept[0]}")
            patterns = RUN_FILES
        elif place.state == "features":
            patterns = FEATURE_FILES
        elif any(place.folder in run.refers for run in run_folders(storage, plan.output)):
            continue
        else:
            patterns = STAGE_FILES[Stage(place.folder.partition("/")[0])]
        remove_ours(storage, join(plan.output, place.folder), patterns, stop, advance)
        gone.append(place)
    return gone


def _name(place: str) -> str:
    return place.removeprefix(f"{RUNS}/")


def _is_named(run: StoredRun, keep: Collection[str]) -> bool:
    name = _name(run.place)
    return name in keep or name.partition("/")[0] in keep


def _refuse_unknown(keep: Collection[str], runs: Sequence[StoredRun], output: str) -> None:
    for wanted in keep:
        if not any(_is_named(run, [wanted]) for run in runs):
            there = sorted({_name(run.place).partition("/")[0] for run in runs})
            raise UserError(f"--keep {wanted}: {output} has no such run: it has {', '.join(there) or 'none'}")


CHUNK: Final = 1000
"""Files that are removed between two looks at the stop flag."""


def pattern_of_file(name: str, patterns: Sequence[str]) -> int | None:
    """Which pattern a file matches first, or the one that a killed write would have made; None for one that is not
    ours.
    """
    return pattern_of(temporary_of(name) or name, patterns)


def remove_ours(
    storage: Storage,
    folder: str,
    patterns: Sequence[str],
    stop: StopFlag,
    advance: Callable[[int], object] = lambda files: None,
) -> None:
    """Remove the files of a folder that match some patterns, by these; the folder goes if it holds nothing else.

    Args:
        storage: where the folder is.
        folder: its URI or path.
        patterns: as of `STAGE_FILES`.
        stop: checked between some files.
        advance: gets the number of files that have gone since the last call.

    Raises:
        StopRequested: a signal.
    """
    above, _, name = folder.rpartition("/")  # an empty folder goes, and one that holds nothing else
    for names in _in_order(storage.files(folder), patterns):
        for start in range(0, len(names), CHUNK):
            stop.raise_if_requested("nothing that is left looks complete")
            chunk = names[start : start + CHUNK]
            storage.remove_files(above, [f"{name}/{file}" for file in chunk])
            advance(len(chunk))


def _in_order(names: Iterable[str], patterns: Sequence[str]) -> list[list[str]]:
    """Our files among some, by pattern."""
    found: list[list[str]] = [[] for _ in patterns]
    for name in names:
        if (number := pattern_of_file(name, patterns)) is not None:
            found[number].append(name)
    return found
