"""A search through a finished run's output finds nothing of pairs that were taken down: real programs, all stages."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from diht_k8s.api.layout import FEATURE_FILES, LEASE, MARKER, RUN_FILES, STAGE_FILES, STARTED
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.images import thumbnail
from diht_k8s.data.shards.samples import caption_digest
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.outputs import takedown, traces
from tests.contract.whole_run import document, prepare, unknown, walk
from tests.recipe.evaluate.small_run import pairs

HOLD_NO_PAIR: dict[Stage, tuple[str, ...]] = {
    Stage.FILTER: (MARKER, STARTED, "claims/*.json"),
    Stage.LABEL: (
        MARKER,
        STARTED,
        "claims/*.json",
        "teacher_heads.safetensors",
        "heads.json",
        "heads/*.state",
        "heads/*.safetensors",
        "vocabulary.json",
    ),
    Stage.TRAIN: (
        MARKER,
        STARTED,
        "result.json",
        f"checkpoints/step-*/{MARKER}",
        "checkpoints/step-*/state-*.safetensors",
        "model/open_clip_config.json",
        "model/open_clip_model.safetensors",
        "model/README.md",
        "concept_heads.safetensors",
        "metrics.jsonl",
        "tensorboard/events.out.tfevents.*",
        "profile/rank-*",
        "preflight.json",
        "preflight-*",
        "commits/[0-9]*",
        "epochs/[0-9]*",
        "claims/*.json",
        LEASE,
    ),
    Stage.EVALUATE: (STARTED,),
}
"""Of these, what names and shows no pair: figures, weights, concepts of the whole pool. A takedown frees all others
of the pairs that it removes (`outputs.takedown`, `outputs.traces`), so a new pattern belongs here or there."""


def test_takedown_knows_every_file_of_a_stage_that_can_hold_a_pair() -> None:
    for stage in Stage:
        freed = [
            *takedown.REWRITTEN.get(stage, ()),
            *takedown.PER_SHARD.get(stage, ()),
            *traces.BLANKED.get(stage, ()),
        ]
        if stage is Stage.FILTER:
            freed += [*takedown.CLEARED, *takedown.CLEARED_LAST, *takedown.OF_TABLES, takedown.PLAN]
        if stage is Stage.EVALUATE:
            freed += [pattern for pattern in STAGE_FILES[stage] if pattern != STARTED]
        assert sorted([*freed, *HOLD_NO_PAIR[stage]]) == sorted(STAGE_FILES[stage]), stage
    assert {takedown.OF_FEATURES, "features.json", "claims/*.json"} == set(FEATURE_FILES)
    assert {*traces.LOGS, *traces.PAGES} <= set(RUN_FILES)


def content_of(path: Path) -> bytes:
    """What a search finds in a file; tables are packed, so their cells are read."""
    content = path.read_bytes()
    if path.suffix == ".parquet":
        table = pq.read_table(io.BytesIO(content))
        content += json.dumps(table.to_pylist(), default=repr, ensure_ascii=False).encode()
        content += b"".join((table.schema.metadata or {}).values())
    return content


def traces_of(uid: str, members: dict[str, bytes]) -> dict[str, bytes]:
    """What would give a pair away."""
    caption = json.loads(members["json"])["caption"]
    image = Image.open(io.BytesIO(members["png"]))
    found = {
        "uid": uid.encode(),
        "digest": hashlib.sha256(members["png"]).hexdigest().encode(),
        "binary digest": hashlib.sha256(members["png"]).digest(),
        "image": members["png"],
        "thumbnail": thumbnail(image).encode(),
    }
    if caption != "server":
        found |= {"caption": caption.encode(), "caption's digest": caption_digest(caption).encode()}
    return found


def found_in(output: Path, wanted: dict[str, dict[str, bytes]]) -> dict[str, set[str]]:
    """Kind of trace -> the files in which a search finds one; the list of takedowns names them on purpose."""
    found: dict[str, set[str]] = {}
    for path in output.rglob("*"):
        if not path.is_file() or path.is_symlink() or path.is_relative_to(output / "takedowns"):
            continue
        if any(parent.is_symlink() for parent in path.parents):
            continue
        content, place = content_of(path), re.sub(r"[0-9a-f]{16}", "DIGEST", str(path.relative_to(output)))
        for each in wanted.values():
            for kind, trace in each.items():
                if trace in content:
                    found.setdefault(kind, set()).add(place)
    return found


def examples(report: Any) -> list[str]:
    """Uids that the page shows, of each reason and of the labels."""
    shown = [*report["filter"]["report"]["examples"].values(), report["label"]["report"]["examples"]]
    return [example["uid"] for each in shown for example in each]


@pytest.mark.timeout(900)
def test_search_finds_nothing_of_pairs_that_were_taken_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare()
    Path("out/raw").rename("raw")
    rules = {"minActions": 0, "textSpotting": {"mode": "Disabled"}, "workers": 1, "duplicates": "Exact"}
    data = {"sources": [{"name": "web", "shards": ["raw/*.tar"]}], "output": "out"}
    shards = {1000: pairs(40, 1000), 2000: pairs(40, 2000), 3000: pairs(40, 3000, caption="server")}
    write_samples(Storage(), "raw/2.tar", shards[3000])
    Path("run.json").write_text(json.dumps(document("tiny", data=data, filter=rules)))
    assert walk("run run.json") == 0
    latest = Path("out/runs/latest")
    members = {f"{seed}-{number}": pair for seed, each in shards.items() for number, (_, pair) in enumerate(each)}
    shown = [uid for uid in examples(json.loads((latest / "report.json").read_text())) if uid[-2:].isdigit()]
    numbers = {uid.partition("-")[2] for uid in shown if int(uid.partition("-")[2]) >= 12}
    taken = sorted(f"{seed}-{number}" for seed in shards for number in sorted(numbers)[:8])
    wanted = {uid: traces_of(uid, members[uid]) for uid in taken}
    log = next(Path("out").glob("runs/*/*/logs*/*/*/*/*/*.log"))
    log.write_text(f"{log.read_text()}step 12: pair {taken[0]} is odd\n")
    (latest / "train/not_finite-00000.json").write_text(json.dumps({"step": 3, "uids": [taken[1], "1000-1"]}))
    before = found_in(Path("out"), wanted)
    assert set(before) == {"uid", "caption", "caption's digest", "image", "thumbnail", "binary digest"}
    assert len(taken) >= 20
    assert any("report.html" in place for place in before["thumbnail"])
    Path("list.txt").write_text("".join(f"{uid}\n" for uid in taken))
    assert walk("purge run.json --exclude list.txt") == 0
    said = capsys.readouterr().out
    assert re.search(
        r"removed because it showed them: .*evaluate/[0-9a-f]{16}.*runs/tiny/[0-9a-f]{16}/report\.html", said
    )
    assert found_in(Path("out"), wanted) == {}
    assert json.loads((latest / "train/not_finite-00000.json").read_text())["uids"] == ["", "1000-1"]
    assert log.read_text().endswith("step 12: pair (taken down) is odd\n")
    assert unknown(Path("out")) == []
    assert walk("run run.json") == 0
    assert (latest / "report.html").exists()
    assert found_in(Path("out"), wanted) == {}
