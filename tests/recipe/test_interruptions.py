"""Whatever is killed or stopped at a moment, and started again, makes the bytes of an undisturbed one.

A row is a stage, a moment and a store. A moment is a write through the storage: the process ends before a file is
begun, once its bytes are written and it does not yet appear, or once it is there. What was finished then is not made
again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, Final, Literal, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from diht_k8s.api.data import StorageRule
from diht_k8s.api.errors import ExitCode
from diht_k8s.api.layout import MARKER, STARTED
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.main import main
from diht_k8s.data.imports import url_tables
from diht_k8s.data.shards.storage import Storage
from diht_k8s.outputs import prune
from diht_k8s.outputs import takedown as takedowns
from diht_k8s.outputs.prune import plan_to_remove, remove
from diht_k8s.runtime.run_folder import run_folder
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.runtime.stage import exit_code_of, run_stage
from diht_k8s.stages.label import stage as label_stage
from tests.folders import filled, located
from tests.recipe.evaluate import small_run
from tests.recipe.filter.clip_scores import write_scored
from tests.recipe.filter.shards import (
    CAPTIONS,
    drawn,
    encoded,
    filter_with,
    pair,
    run_of,
    tar_of,
    with_spec,
    write_shards,
)
from tests.recipe.filter.tables import pairs as table_rows
from tests.recipe.filter.tables import table_run, write_table
from tests.recipe.filter.taken_pairs import Bench, entry, without_times
from tests.recipe.imports.loose_pairs import in_folder
from tests.recipe.imports.outputs import tree
from tests.recipe.label.conftest import SIDE, TEACHER, Kept, pairs_of, teacher_weights  # noqa: F401  # a fixture
from tests.s3.conftest import az, gs, s3, store  # noqa: F401  # fixtures
from tests.s3.server import S3
from tests.unit.api.documents import changed

When = Literal["before", "within", "after", "before removing", "asked after"]
MARKERS: Final = (MARKER, STARTED)


class Moment(NamedTuple):
    """When a process is killed, or asked to stop: at the n-th time that a file is written or removed."""

    when: When
    file: str
    nth: int = 1


@dataclass(frozen=True)
class Work:
    """What is interrupted, in an output."""

    do: Callable[[str, StopFlag], object]
    made: Callable[[str], Mapping[str, Any]]
    """what it made, the same whenever it was interrupted."""
    prepare: Callable[[str], object] = lambda output: None
    final: Sequence[str] = ()
    """patterns of files that are not made again once they are there."""
    marker: str = MARKER
    """file that is there last; no moment before it may show it."""


@dataclass(frozen=True)
class Site:
    """Where outputs lie: a folder, or a place in an object store with its rule."""

    folder: Path
    place: str
    rule: Mapping[str, Any] | None = None
    weights: str = ""

    @property
    def storage(self) -> Storage:
        """A new one: it takes a CPU second to connect, and a fork must not share it."""
        return Storage([] if self.rule is None else [StorageRule.model_validate(dict(self.rule))])

    def stored(self, run: DihtRun) -> DihtRun:
        """The run with the rule of the store."""
        if self.rule is None:
            return run
        return with_spec(run, storage=[dict(self.rule)])

    def made(self, output: str, stage: Stage, *suffixes: str) -> dict[str, bytes]:
        """The files of a stage with these suffixes, and its report."""
        storage = self.storage
        folder = located(output, storage).stage(stage)
        names = [
            name
            for name in storage.files(folder)
            if name.endswith(suffixes) and not name.startswith(("claims/", "features/", "heads/"))
        ]
        return {name: storage.read_bytes(f"{folder}/{name}") for name in [*names, "report.json"]}


def filters(site: Site, rules: Mapping[str, Any], *, final: Sequence[str] = ("scores/*",)) -> Work:
    """The filter of the shards in the site's folder `in`."""
    shards = f"{site.folder}/in/*.tar"
    if site.rule is not None:
        shards, storage = f"{site.place}/in/*.tar", site.storage
        for path in (site.folder / "in").iterdir():
            storage.write_bytes(f"{site.place}/in/{path.name}", path.read_bytes())
    return Work(
        lambda output, stop: filter_with(site.stored(run_of(output, shards, rules)), stop=stop),
        lambda output: site.made(output, Stage.FILTER, ".tar", ".parquet"),
        final=final,
    )


def plain_filter(site: Site) -> Work:
    write_shards(site.folder / "in", [[f"{caption} {number}" for caption in CAPTIONS] for number in range(4)])
    return filters(site, {})


def filter_of_repeats(site: Site) -> Work:
    """One image of three comes again in the next shard."""
    (site.folder / "in").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    images = [encoded(Image.fromarray(each)) for each in noise]
    for shard in range(3):
        members = [each for n in range(3) for each in pair(f"{shard}-{n}", CAPTIONS[0], images[(shard + n) % 5])]
        (site.folder / f"in/{shard}.tar").write_bytes(tar_of(members))
    return filters(site, {"duplicates": "Near"}, final=())


def filter_by_share(site: Site) -> Work:
    small_run.export_model(site.folder / "clip")
    write_scored(site.folder / "in")
    return filters(site, {"clipScore": {"model": str(site.folder / "clip"), "keepShare": 0.4}}, final=())


def filter_of_tables(site: Site) -> Work:
    table = write_table(site.folder / "a.parquet", table_rows(300))

    def do(output: str, stop: StopFlag) -> object:
        before, url_tables.PART_ROWS = url_tables.PART_ROWS, 100  # type: ignore[misc]
        try:
            return filter_with(table_run(Path(output), table), stop=stop)
        finally:
            url_tables.PART_ROWS = before  # type: ignore[misc]

    return Work(do, lambda output: site.made(output, Stage.FILTER, ".parquet"), final=("scores/*",))


def labels(site: Site, *steps: str) -> Work:
    """The label stage, as one program or one after another for each step."""
    label = {
        "teacher": {"model": f"timm/{TEACHER}", "weights": site.weights, "imageSize": SIDE},
        "heads": {"epochs": 3, "lr": 0.01, "batchSize": 32},
        "topK": 3,
    }

    def kept(output: str) -> Kept:
        return Kept(Path(output), [pairs_of(number, 40) for number in range(3)], label)

    def do(output: str, stop: StopFlag) -> None:
        for step in steps or ("",):
            run_stage(label_stage, kept(output).run(), Stage.LABEL, step=step, stop=stop)

    def made(output: str) -> Mapping[str, bytes]:
        found = site.made(output, Stage.LABEL, ".parquet", ".safetensors", ".json")
        return {name: data for name, data in found.items() if name not in MARKERS}

    return Work(
        do,
        made,
        lambda output: kept(output).write(),
        final=("features/*", "labels/*", "vocabulary.json"),
        marker=f"label/*/{MARKER}",
    )


def label_in_steps(site: Site) -> Work:
    return labels(site, "vocabulary", "heads", "predict")


def evaluation(site: Site) -> Work:
    """An evaluation of one folder, again and again, since its page names it."""
    folder = site.folder / "evaluated"
    run = small_run.document(folder)

    def prepare(output: str) -> None:
        if not folder.exists():
            folder.mkdir()
            small_run.make_run(folder, run)
        shutil.rmtree(folder / "out/evaluate", ignore_errors=True)

    def made(output: str) -> Mapping[str, bytes]:
        found = site.made(str(folder / "out"), Stage.EVALUATE, ".json", ".parquet", ".html", ".md")
        return {name: data for name, data in found.items() if name not in MARKERS}

    return Work(
        lambda output, stop: small_run.evaluate(run, stop=stop),
        made,
        prepare,
        final=("benchmarks/*.json", "features/*"),
    )


def imported(site: Site, *command: str) -> Work:
    def do(output: str, stop: StopFlag) -> None:
        if code := main([*command, str(site.folder / "in"), output, "--shard-size", "4"]):
            raise SystemExit(code)

    return Work(do, lambda output: tree(Path(output)), final=("import/[0-9]*.json",))


def import_of_pairs(site: Site) -> Work:
    in_folder(site.folder / "in", 12)
    return imported(site, "import")


def import_of_a_benchmark(site: Site) -> Work:
    for number in range(12):
        path = site.folder / f"in/test/{('a', 'b')[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawn(str(number)))
    return imported(site, "benchmarks", "import")


def takedown(site: Site, kind: str = "Shards") -> Work:
    benches: dict[str, Bench] = {}

    def prepare(output: str) -> None:
        Path(output).mkdir(parents=True)
        benches[output] = Bench(Path(output), kind)

    def made(output: str) -> Mapping[str, Any]:
        benches[output].check_artefacts()
        return without_times(benches[output])

    gone = ("a-1", entry("image"), "b-0", "b-1")
    return Work(lambda output, stop: benches[output].purge(*gone), made, prepare, marker="label/*/" + MARKER)


def takedown_of_lists(site: Site) -> Work:
    return takedown(site, "KeepList")


def pruning(site: Site) -> Work:
    """The removal of a run's folders but a person's file."""
    files = {"kept/web-0.tar": b"kept", "scores/web-0.parquet": b"scores", "notes.txt": b"mine"}

    def run(output: str, name: str) -> DihtRun:
        rules = [dict(site.rule)] if site.rule else []
        document = changed(metadata__name=name, spec__data__output=output, spec__storage=rules)
        return site.stored(DihtRun.model_validate(document))

    def prepare(output: str) -> None:
        for name in ("one", "two"):
            filled(run(output, name), Stage.FILTER, name, files=files)
        storage = site.storage
        for name in ("run", "filter"):
            storage.remove(f"{run_folder(run(output, 'two'))}/{name}.json")

    def do(output: str, stop: StopFlag) -> None:
        prune.CHUNK, storage = 1, site.storage  # type: ignore[misc]
        remove(storage, plan_to_remove(storage, output, None, stop, watch=lambda *_: {}), stop)

    def made(output: str) -> Mapping[str, bytes]:
        storage = site.storage
        return {name: storage.read_bytes(f"{output}/filter/{name}") for name in storage.files(f"{output}/filter")}

    return Work(do, made, prepare, marker="")


class Killing:
    """Ends this process at a moment."""

    def __init__(self, moment: Moment, stop: StopFlag) -> None:
        self._moment, self._stop, self._seen = moment, stop, 0

    def at(self, when: When, uri: str) -> None:
        wanted = self._moment
        if when != wanted.when.removeprefix("asked ") or not fnmatchcase(uri, f"*/{wanted.file}"):
            return
        self._seen += 1
        if self._seen == wanted.nth and wanted.when == "asked after":
            self._stop.requested = True
        elif self._seen == wanted.nth:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        writer, create, remove_files = Storage.writer, Storage.create, Storage.remove_files

        @contextlib.contextmanager
        def written(storage: Storage, uri: str) -> Iterator[IO[bytes]]:
            self.at("before", uri)
            with writer(storage, uri) as file:
                yield file
                self.at("within", uri)
            self.at("after", uri)

        def created(storage: Storage, uri: str, data: bytes) -> bool:
            self.at("before", uri)
            done = create(storage, uri, data)
            self.at("after", uri)
            return done

        def removed(storage: Storage, folder: str, names: Sequence[str]) -> None:
            for name in names:
                self.at("before removing", f"{folder}/{name}")
            remove_files(storage, folder, names)

        Storage.writer, Storage.create, Storage.remove_files = written, created, removed  # type: ignore[method-assign, assignment]


def interrupted(work: Work, output: str, moment: Moment) -> int | None:
    """The exit code of a process that does the work until the moment."""

    def program() -> None:
        torch.set_num_threads(1)
        stop = StopFlag()
        Killing(moment, stop).install()
        os._exit(exit_code_of(lambda: work.do(output, stop)))

    process = multiprocessing.get_context("fork").Process(target=program)
    process.start()
    process.join(300)
    return process.exitcode


WHOLE: dict[str, tuple[Work, Site, Mapping[str, Any]]] = {}
"""Stage and store -> the work, and what an undisturbed one makes."""


def check(make: Callable[[Site], Work], moment: Moment, site: Site) -> None:
    key = f"{make.__name__} {site.place.partition(':')[0] if site.rule else 'disk'}"
    if key not in WHOLE:
        work, output = make(site), f"{site.place}/whole"
        work.prepare(output)
        work.do(output, StopFlag())
        WHOLE[key] = work, site, work.made(output)
    work, site, whole = WHOLE[key]
    name = f"{moment.when}-{moment.file}-{moment.nth}".translate(str.maketrans("*/ ", "---"))
    output = f"{site.place}/{name}"
    work.prepare(output)
    code = interrupted(work, output, moment)
    assert code == (ExitCode.STOPPED if moment.when == "asked after" else -signal.SIGKILL), "the moment never came"
    left = times(output, work.final)
    if work.marker and moment != ("after", MARKER, 1) and not moment.file.endswith(takedowns.PLAN):
        assert not [name for name in site.storage.files(output) if fnmatchcase(name, f"*{work.marker}")]
    work.do(output, StopFlag())
    assert work.made(output) == whole
    assert left.items() <= times(output, work.final).items(), "made again"


def times(output: str, patterns: Sequence[str]) -> dict[str, int]:
    """When files on a disk were written."""
    found = [] if "://" in output else [path for path in Path(output).rglob("*") if path.is_file()]
    return {
        str(path): path.stat().st_mtime_ns
        for path in found
        if any(
            fnmatchcase(str(path), f"*/{each}") and not path.name.startswith(".") and path.parent.name != "claims"
            for each in patterns
        )
    }


FILTER_MOMENTS = [
    Moment("before", "STARTED.json"),
    Moment("after", "STARTED.json"),
    Moment("within", "kept/web-00001.tar"),
    Moment("after", "kept/web-00001.tar"),
    Moment("within", "scores/web-00001.parquet"),
    Moment("before", "scores/web-00003.parquet"),
    Moment("asked after", "scores/web-00001.parquet"),
    Moment("before", "report.json"),
    Moment("before", "COMMITTED.json"),
    Moment("after", "COMMITTED.json"),
]
TAKEDOWN_WRITES = [
    *(
        "filter/*/PURGE.json",
        "label/*/labels/web-a.parquet",
        "filter/*/kept/web-a.tar",
        "filter/*/scores/web-a.parquet",
    ),
    *("label/*/labels/web-b.parquet", "filter/*/kept/web-b.tar", "filter/*/scores/web-b.parquet"),
    *("filter/*/report.json", "filter/*/COMMITTED.json", "label/*/report.json", "label/*/COMMITTED.json"),
]
ON_DISK = [
    *((plain_filter, moment) for moment in FILTER_MOMENTS),
    *(
        (filter_of_repeats, Moment("before", file, nth))
        for file, nth in (
            ("fingerprints/web-1.parquet", 1),
            ("duplicates/*", 1),
            ("scores/web-0.parquet", 2),
            ("kept/web-1.tar", 2),
            ("report.json", 1),
        )
    ),
    *(
        (filter_by_share, moment)
        for moment in (
            Moment("before", "scores/web-1.parquet"),
            Moment("before", "clip_share.json"),
            Moment("before", "scores/web-0.parquet", 2),
            Moment("after", "scores/web-0.parquet", 2),
            Moment("before", "kept/web-1.tar", 2),
        )
    ),
    (filter_of_tables, Moment("asked after", "scores/web-a-00000.parquet")),
    (filter_of_tables, Moment("within", "scores/web-a-00001.parquet")),
    *(
        (labels, moment)
        for moment in (
            Moment("before", "features/shapes-01.safetensors"),
            Moment("after", "features/shapes-01.safetensors"),
            Moment("asked after", "features/shapes-01.safetensors"),
            Moment("within", "labels/shapes-01.parquet"),
            Moment("before", "COMMITTED.json"),
        )
    ),
    *(
        (label_in_steps, moment)
        for moment in (
            Moment("after", "vocabulary.json"),
            Moment("before", "teacher_heads.safetensors"),
            Moment("before", "labels/shapes-02.parquet"),
        )
    ),
    *(
        (evaluation, moment)
        for moment in (
            Moment("after", "features/*"),
            Moment("within", "benchmarks/000.json"),
            Moment("before", "benchmarks/001.json"),
            Moment("before", "report.json"),
            Moment("before", "COMMITTED.json"),
        )
    ),
    *(
        (make, moment)
        for make, shard in ((import_of_pairs, "00001.tar"), (import_of_a_benchmark, "test/1.tar"))
        for moment in (
            Moment("after", "STARTED.json"),
            Moment("within", shard),
            Moment("within", "import/1.json"),
            Moment("before", "import/1.json"),
            Moment("before", "COMMITTED.json"),
        )
    ),
    *((takedown, Moment("before", file)) for file in TAKEDOWN_WRITES),
    *((takedown_of_lists, Moment("before", f"filter/*/{part}/web-a.parquet")) for part in ("kept", "scores")),
    *((pruning, Moment("before removing", f"*/{file}")) for file in (MARKER, "scores/*", "kept/*", STARTED)),
]
ON_STORES = [
    (plain_filter, Moment("within", "kept/web-00001.tar")),
    (plain_filter, Moment("asked after", "scores/web-00001.parquet")),
    (pruning, Moment("before removing", f"*/{MARKER}")),
]
"""One of each kind: what a store does at the others is the same."""
ALSO_ON_STORES = [
    (plain_filter, Moment("after", "kept/web-00001.tar")),
    (plain_filter, Moment("within", "scores/web-00001.parquet")),
    (plain_filter, Moment("before", "scores/web-00003.parquet")),
    *((pruning, Moment("before removing", f"*/{file}")) for file in ("kept/*", STARTED)),
]


def named(rows: Sequence[tuple[Any, Moment]], *marks: pytest.MarkDecorator) -> list[Any]:
    return [
        pytest.param(make, moment, id=f"{make.__name__} {' '.join(map(str, moment))}", marks=marks)
        for make, moment in rows
    ]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Site]:
    """A folder for each kind of work, the same for all its rows."""
    sites: dict[str, Site] = {}

    def site(name: str, weights: str = "") -> Site:
        if name not in sites:
            folder = tmp_path_factory.mktemp(name)
            sites[name] = Site(folder, str(folder / "outputs"), weights=weights)
        return sites[name]

    return site


@pytest.mark.parametrize(("make", "moment"), named(ON_DISK))
def test_on_a_disk_what_is_interrupted_ends_in_the_same_bytes(
    make: Callable[[Site], Work],
    moment: Moment,
    disk: Callable[..., Site],
    teacher_weights: str,  # noqa: F811  # the fixture
) -> None:
    check(make, moment, disk(make.__name__, teacher_weights))


@pytest.mark.s3
@pytest.mark.parametrize(("make", "moment"), [*named(ON_STORES), *named(ALSO_ON_STORES, pytest.mark.slow)])
def test_on_a_store_what_is_interrupted_ends_in_the_same_bytes(
    make: Callable[[Site], Work],
    moment: Moment,
    store: S3,  # noqa: F811  # the fixture
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = f"{store.base}/interrupted-{make.__name__}"
    check(make, moment, Site(tmp_path_factory.mktemp(make.__name__), place, store.rule))
