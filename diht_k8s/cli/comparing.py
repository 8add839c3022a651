"""`diht report`: reads the reports of several runs, writes the page that compares them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import Stage
from diht_k8s.recipe.report.comparison import comparison, comparison_page, comparison_text
from diht_k8s.recipe.shards.storage import Storage


def compare(runs: Sequence[str], output: str) -> str:
    """Write the page; the table for a terminal.

    Args:
        runs: output folders, or report.json files.
        output: where the page goes.

    Raises:
        UserError: a run has no report.
        DataError: a report is damaged or of another version.
    """
    storage = Storage()
    compared = comparison([_read(storage, run) for run in runs])
    storage.write_bytes(output, comparison_page(compared).encode())
    return f"{comparison_text(compared)}\n\n{output}"


def _read(storage: Storage, run: str) -> dict[str, Any]:
    places = [run] if run.endswith(".json") else [Layout(run).report(Stage.EVALUATE), join(run, "report.json")]
    uri = next((place for place in places if storage.exists(place)), None)
    if uri is None:
        raise UserError(f"{run} has no evaluate/report.json: run the stage evaluate first, or name a report.json")
    try:
        found = json.loads(storage.read_bytes(uri))
        version = found["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{uri} is damaged ({error!r}): run the stage evaluate again") from error
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{uri} is of version {version}, this program reads {SCHEMA_VERSION}: run the stage evaluate again"
        )
    return found
