"""`diht parse`: what the CAT filter's parser sees in captions."""

from __future__ import annotations

from collections.abc import Sequence

from diht_k8s.recipe.runtime.stage import exit_code_of


def parse_command(captions: Sequence[str]) -> int:
    """Print the graph of each caption; the exit code."""

    def work() -> None:
        from diht_k8s.recipe.filter import CaptionParser, describe

        print("\n\n".join(describe(graph) for graph in CaptionParser().parse(list(captions))))

    return exit_code_of(work)
