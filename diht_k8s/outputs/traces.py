"""Traces of pairs beside the files that hold them: in pages, evaluations, logs and notes of a training.

In: what tells some pairs (uids, digests, paths, captions). Out: an output in which no such file names them. What
shows a pair goes as a whole, since `diht run` makes it again; what only names it keeps the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.api.base import texts_in
from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import MARKER, STAGE_FILES, STARTED, join
from diht_k8s.api.run import Stage
from diht_k8s.data.feature_files import header_in
from diht_k8s.data.shards.storage import Storage
from diht_k8s.outputs.prune import pattern_of_file
from diht_k8s.report.per_image import read_per_image
from diht_k8s.runtime.references import RUNS

BLANKED: Final[Mapping[Stage, tuple[str, ...]]] = {
    Stage.FILTER: ("clip_share.json",),
    Stage.TRAIN: ("not_finite-*.json",),
}
"""Documents that name pairs: the names become empty."""
LOGS: Final = ("logs*/*/cause-*.json", "logs*/*/*/*/*/*.log")
"""In a run's folder: names become `(taken down)`."""
PAGES: Final = ("report.html", "report.json")
"""Of a run: made from its evaluation's."""
LEAST_IN_TEXTS: Final = 6
"""Characters of a name that is looked for in the middle of a text: shorter ones are parts of other things."""
GONE: Final = "(taken down)"


def names_in(document: Any, names: Collection[str]) -> bool:
    """Whether a JSON document has one of some names as a key or as a whole text."""
    return any(text in names for text in texts_in(document, keys=True))


def changed_texts(document: Any, change: Callable[[str], str]) -> Any:
    """A JSON document with each of its texts changed; keys stay."""
    if isinstance(document, str):
        return change(document)
    if isinstance(document, Mapping):
        return {key: changed_texts(value, change) for key, value in document.items()}
    return [changed_texts(value, change) for value in document] if isinstance(document, list) else document


def without_names(text: str, names: Collection[str]) -> str:
    """A text with `(taken down)` in place of the names in it that are long enough and stand for themselves."""
    long = sorted((name for name in names if len(name) >= LEAST_IN_TEXTS), key=len, reverse=True)
    return re.sub(rf"(?<![\w-])(?:{'|'.join(map(re.escape, long))})(?![\w-])", GONE, text) if long else text


@dataclass(frozen=True)
class Traces:
    """The traces of some pairs in an output."""

    storage: Storage
    output: str
    names: frozenset[str]
    """uids, digests and paths."""
    captions: frozenset[str] = frozenset()
    """of those whose samples are known; they are looked for in logs, where no name need stand beside them."""

    def remove(self) -> list[str]:
        """Remove them; returns what is gone or was changed, relative to the output."""
        found = [place for stage in Stage for place in self._of_stage(stage)]
        for name in self.storage.folders(join(self.output, RUNS)):
            for digest in self.storage.folders(join(self.output, RUNS, name)):
                found += self._of_run(join(RUNS, name, digest))
        return found

    def _of_stage(self, stage: Stage) -> Iterator[str]:
        for digest in self.storage.folders(join(self.output, stage.value)):
            folder = join(stage.value, digest)
            if stage is Stage.EVALUATE:
                yield from self._of_evaluation(folder)
            for path in self._ours(folder, BLANKED.get(stage, ())):
                if self._change(path, lambda text: "" if text in self.names else text):
                    yield path

    def _of_evaluation(self, folder: str) -> Iterator[str]:
        """Remove all of an evaluation but the note of what it is, if something of it shows a pair: the marker first."""
        held = [
            pattern for pattern in STAGE_FILES[Stage.EVALUATE] if pattern.endswith(("json", "parquet", "safetensors"))
        ]
        if any(self._shows(path) for path in self._ours(folder, held)):
            self.storage.remove(join(self.output, folder, MARKER))
            patterns = [pattern for pattern in STAGE_FILES[Stage.EVALUATE] if pattern != STARTED]
            self._remove(self._ours(folder, patterns))
            yield folder

    def _of_run(self, folder: str) -> Iterator[str]:
        if any(self._shows(path) for path in self._ours(folder, ["report.json"])):
            pages = list(self._ours(folder, PAGES))
            self._remove(pages)
            yield from pages
        for path in self._ours(folder, LOGS):
            if self._change(path, lambda text: without_names(text, self.names | self.captions)):
                yield path

    def _ours(self, folder: str, patterns: Collection[str]) -> Iterator[str]:
        """Files of a folder that match a pattern, relative to the output; those of killed writes, too."""
        for name in self.storage.files(join(self.output, folder)) if patterns else ():
            if pattern_of_file(name, tuple(patterns)) is not None:
                yield join(folder, name)

    def _remove(self, paths: Collection[str] | Iterator[str]) -> None:
        for path in list(paths):
            self.storage.remove(join(self.output, path))

    def _shows(self, path: str) -> bool:
        """Whether a file of an evaluation, or a page's document, has a name; one that cannot be read may have it."""
        uri = join(self.output, path)
        try:
            if path.endswith(".parquet"):
                rows = read_per_image(self.storage, uri)
                return rows is not None and not self.names.isdisjoint([*rows.uids, *rows.texts])
            content = self.storage.read_bytes(uri)
            document = header_in(content) if path.endswith(".safetensors") else json.loads(content.decode())
            return names_in(document, self.names)
        except (ValueError, KeyError, DataError):
            return True

    def _change(self, path: str, change: Callable[[str], str]) -> bool:
        """Change the texts of a document, or a file of lines; returns whether there was anything to change."""
        uri = join(self.output, path)
        before = self.storage.read_bytes(uri).decode(errors="replace")
        if path.endswith(".json"):
            try:
                document = json.loads(before)
            except ValueError:  # half of it: nobody can read it
                self.storage.remove(uri)
                return True
            after = changed_texts(document, change)
            if after == document:
                return False
            self.storage.write_bytes(uri, json.dumps(after, ensure_ascii=False).encode())
            return True
        after = change(before)
        if after != before:
            self.storage.write_bytes(uri, after.encode())
        return after != before
