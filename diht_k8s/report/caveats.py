"""Caveats of a report: what its figures say and what they do not, in sentences made of the figures. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Final

import numpy as np

from diht_k8s.api.wording import enumerated
from diht_k8s.report.overview import DIRECTIONS, REFERENCES, SPLITS, percent, points
from diht_k8s.report.per_image import holm, paired_differences, verdict

SMALL_PAIRS: Final = 1_000_000
MANY: Final = 4
"""With more benchmarks than this, the page folds each of them together with its caveats."""
SEED: Final = 2024
"""Of the resamples: a page made twice is the same."""
LEAST_DRAWS: Final = 3
RELATIONS: Final = {"better": "above", "worse": "below", "not clearly different": "not clearly different from"}
"""Verdict of a paired difference -> words."""

Json = Mapping[str, Any]


def caveats(content: Json) -> list[str]:
    """Sentences to read before quoting a figure; what the model is not better than comes first."""
    done = [benchmark for benchmark in content["benchmarks"] if "error" not in benchmark]
    compared = [caveat for benchmark in done for caveat in _reference_caveats(benchmark)]
    own = [caveat for benchmark in done for caveat in _other_caveats(benchmark)]
    labels = label_caveats(content["label"].get("report", {}))
    return [
        *compared,
        *_size_caveats(content),
        *_split_caveats(done),
        *_failures(content),
        *own,
        *labels,
        *_run_caveats(content),
    ]


def page_caveats(content: Json) -> list[str]:
    """Those for the top of the page: those on labels stand in their section, those of many benchmarks in the folds."""
    done = [benchmark for benchmark in content["benchmarks"] if "error" not in benchmark]
    if len(content["benchmarks"]) <= MANY:
        labels = label_caveats(content["label"].get("report", {}))
        return [caveat for caveat in caveats(content) if caveat not in labels]
    everywhere = [*_split_caveats(done), *_failures(content), *_seen_in_all(done)]
    return [*_size_caveats(content), *everywhere, *_run_caveats(content)]


def _split_caveats(benchmarks: list[dict[str, Any]]) -> list[str]:
    """The use that was made of the images of each split."""
    says = {
        "Development": "settings were chosen on these images, so their figures are too good for new ones",
        "HeldOut": "the run document says that no setting was chosen on these images",
    }
    names = {split: [b["name"] for b in benchmarks if b.get("split") == split] for split in says}
    return [
        f"{SPLITS[split].capitalize()} split ({', '.join(found)}): {says[split]}."
        for split, found in names.items()
        if found
    ]


def _failures(content: Json) -> list[str]:
    failed = [benchmark for benchmark in content["benchmarks"] if "error" in benchmark]
    return [f"The benchmark {benchmark['name']} has no result: {benchmark['error']}" for benchmark in failed]


def _seen_in_all(benchmarks: list[dict[str, Any]]) -> list[str]:
    """Those of many benchmarks that contain training images."""
    compared = [benchmark for benchmark in benchmarks if benchmark.get("seen") is not None]
    if not compared:
        return []
    shares = [
        f"{benchmark['name']} ({percent(benchmark['seen']['pictures'] / benchmark['seen']['of'])})"
        for benchmark in compared
        if benchmark["seen"]["pictures"]
    ]
    found, pairs = ", ".join(shares) if shares else "none", max(benchmark["seen"]["pairs"] for benchmark in compared)
    return [
        f"Benchmarks with images that stand byte for byte among the first {pairs:,} training pairs, "
        f"of {len(compared)} that were compared: {found}."
    ]


def _run_caveats(content: Json) -> list[str]:
    """Caveats of the filter, the model and missing stages."""
    found: list[str] = []
    if content["filter"]["state"] == "committed":
        found.append(
            "This report does not show whether the filter helps: that takes a second run without it, or with a random "
            "subset of equal size. On small, clean sets it usually does not, because it removes pairs that a small "
            "model can still learn from; it is made for web images, junk captions and images of their own caption."
        )
    for stage in ("filter", "label", "train"):
        shards = content[stage].get("summary", {}).get("damaged_shards", [])
        if shards:
            used = sum(shard["salvaged"] for shard in shards)
            found.append(
                f"{stage.capitalize()}: {len(shards):,} damaged shards were used up to the damage ({used:,} pairs)."
            )
    if (model := content["model"]) is not None and not model["trained"]:
        found.append(f"The model {model['name']} has random weights: its figures are those of an untrained network.")
    if model is not None and model.get("assumed"):
        found.append(f"The model {model['name']} came without a configuration: {model['assumed']} are assumed.")
    if content["run"]["stages"] == ["evaluate"]:  # nothing of the run is missing
        compared = any(benchmark.get("seen") is not None for benchmark in content["benchmarks"])
        elsewhere = (
            "The model was made elsewhere. Here, training pairs are those of this run's `data.sources`: whether it has "
            "seen the benchmarks' images in its own training is not known."
        )
        return [*found, elsewhere] if compared else found
    return [*found, *content["missing"].values()]


def label_caveats(report: Json) -> list[str]:
    """Agreement of the concept labels with captions, beside that of always naming the commonest concept."""
    found: list[str] = []
    for kind in ("objects", "attributes"):
        tops = report.get("heads", {}).get(kind, {}).get("top_label_in_caption", {})
        if tops.get("never_seen") is not None and tops.get("commonest_concept") is not None:
            found.append(
                f"Concept labels, {kind}: the likeliest one is a word of the caption for "
                f"{percent(tops['never_seen'])} of "
                f"the images; always naming the commonest would be for {percent(tops['commonest_concept'])}."
            )
    return found + ([] if (added := report.get("added")) is None else [added_note(added)])


def added_note(added: Json) -> str:
    """For how many images a label is shown that their captions lack, and what is known about these labels without
    looking.
    """
    shown = (
        f"For {percent(added['pictures'])} of the images an object is shown that their caption does not name; "
        "for the others "
        "none fits image and caption well enough."
    )
    if added["precision"] is None:
        return shown
    return (
        f"{shown} Captions of unseen images name such an object in {percent(added['precision'])} of the images "
        "of which a label "
        "says it (mean over the labels shown). That is no share of right ones, since captions leave out a lot: "
        "nobody has "
        "looked at these."
    )


def _size_caveats(content: Json) -> list[str]:
    pairs = content["train"].get("summary", {}).get("pairs")
    if pairs is None or pairs >= SMALL_PAIRS:
        return []
    return [
        f"The model was trained on {pairs:,} pairs. Figures at this size show that the machinery works, "
        "not that the recipe helps: the paper's gains are measured on hundreds of millions of pairs."
    ]


def benchmark_caveats(benchmark: Json) -> list[str]:
    """Caveats of one benchmark with a result, the comparison with its reference first."""
    return [*_reference_caveats(benchmark), *_other_caveats(benchmark)]


def _reference_caveats(benchmark: Json) -> list[str]:
    """The paired differences to the references, one sentence a direction."""
    found: list[str] = []
    for reference, (key, direction) in product(benchmark.get("references", []), DIRECTIONS.items()):
        difference = reference["difference"][key]
        low, high = map(points, difference["interval"])
        found.append(
            f"{benchmark['name']}, {direction}: with R@5 {percent(benchmark[key]['recall']['5'])} the model is "
            f"{RELATIONS[difference['verdict']]} the {REFERENCES[reference['name']]} with "
            f"{percent(reference[key]['recall']['5'])} (paired over the images "
            f"{points(difference['value'])} points, 95\N{NO-BREAK SPACE}% interval {low} to {high})."
        )
    return found


def _other_caveats(benchmark: Json) -> list[str]:
    found: list[str] = []
    if (seen := benchmark.get("seen")) is not None:
        found.append(
            f"{benchmark['name']}: of its {seen['of']:,} different images, {seen['pictures']:,} "
            f"({percent(seen['pictures'] / seen['of'])}) stand byte for byte among "
            f"the first {seen['pairs']:,} training pairs."
        )
    if benchmark.get("decode") == "Reference":
        found.append(
            f"{benchmark['name']}: images are decoded as open_clip and clip-benchmark do it, without orientation and "
            "transparency."
        )
    if bad := sum(benchmark.get("bad", {}).values()):
        found.append(f"{benchmark['name']}: {bad:,} images could not be read and do not count.")
    found += _left_out(benchmark)
    if shards := benchmark.get("damaged_shards", []):
        used = sum(shard["salvaged"] for shard in shards)
        found.append(
            f"{benchmark['name']}: {len(shards):,} damaged shards were used up to the damage ({used:,} images)."
        )
    if "classes" in benchmark:
        found.append(
            f"{benchmark['name']}: always predicting the most common class would be right for "
            f"{percent(benchmark['majority'])} of the images, so look at the balanced accuracy "
            f"({percent(benchmark['balanced'])}), not at top-1 ({percent(benchmark['top1'])})."
        )
    found += few_shot_caveats(benchmark)
    if left_out := benchmark.get("left_out"):
        found.append(f"{benchmark['name']}: {left_out:,} incomplete groups do not count.")
    for skipped in benchmark.get("few_shot", {}).get("skipped", []):
        found.append(f"{benchmark['name']}: {skipped['shots']} shots were left out: {skipped['why']}.")
    return found + [f"{benchmark['name']}: {note}." for note in benchmark.get("notes", [])]


def _left_out(benchmark: Json) -> list[str]:
    """The images that lack what the task asks about: a smaller gallery is an easier one."""
    found: list[str] = []
    for what in ("caption", "class", "question"):
        if number := benchmark.get(f"without_{what}"):
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in benchmark.get(f"no_{what}", {}).items())
            found.append(
                f"{benchmark['name']}: {number:,} of {benchmark['pictures'] + number:,} images have no {what} and "
                f"do not "
                f"count{f' ({reasons})' if reasons else ''}."
            )
    if number := benchmark.get("without_group"):
        found.append(f"{benchmark['name']}: {number:,} images have no group and do not count.")
    if number := benchmark.get("unusable_cues"):
        found.append(
            f"{benchmark['name']}: {number:,} entries of `cues` have no text, or an `associated` that is not true or "
            "false; their groups do not count."
        )
    if copies := benchmark.get("copies"):
        found.append(f"{benchmark['name']}: {copies:,} samples have the image of another one and count with it.")
    return found


def few_shot_verdicts(draws: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Shots -> whether the probe from zero-shot is `better`, `worse` or `not clearly different` than that from scratch.

    Both are fitted on the same draw of shots, so draws are paired as seeds are; Holm's correction is over the numbers
    of shots. Numbers of shots with fewer than `LEAST_DRAWS` draws are left out.
    """
    by_shots: dict[int, list[Mapping[str, Any]]] = {}
    for draw in draws:
        by_shots.setdefault(draw["shots"], []).append(draw)
    tested = {shots: found for shots, found in sorted(by_shots.items()) if len(found) >= LEAST_DRAWS}
    differences = []
    for found in tested.values():
        scratch_FSN, probe_FSN = (
            np.array([draw[kind] for draw in found])[None, :, None] for kind in ("scratch", "probe")
        )
        rng = np.random.default_rng(SEED)
        differences += paired_differences(scratch_FSN, probe_FSN, np.ones((1, 1)), rng, same_seeds=True)
    adjusted = holm([difference.p for difference in differences])
    return {
        shots: verdict(difference.value, p) for shots, difference, p in zip(tested, differences, adjusted, strict=True)
    }


def few_shot_caveats(benchmark: Mapping[str, Any]) -> list[str]:
    """One sentence on probe and scratch, and why; none where the probe has no draws."""
    few_shot = benchmark.get("few_shot", {})
    verdicts = few_shot_verdicts(few_shot.get("draws", []))
    if not verdicts:
        return []
    parts = [
        f"{words} it at {enumerated([str(shots) for shots in verdicts if verdicts[shots] == kind])} shots per class"
        for kind, words in RELATIONS.items()
        if kind in verdicts.values()
    ]
    zero_shot, chance = few_shot["points"][0]["zero_shot"]["mean"], benchmark["chance"]
    draws = few_shot["points"][0]["draws"]
    caveat = (
        f"{benchmark['name']}: against the probe from scratch, the probe from zero-shot is {', '.join(parts)} (paired "
        f"over {draws} draws). Its prior is the zero-shot classifier, right for "
        f"{100 * zero_shot:.1f}\N{NO-BREAK SPACE}% "
        f"where guessing gives {100 * chance:.1f}\N{NO-BREAK SPACE}%."
    )
    if "worse" in verdicts.values():
        caveat += " A ball around a weak prior holds the probe back as soon as the shots say more than the prior."
    return [caveat]
