"""What an import keeps of a table's rows, in the filter: limits by its columns, and scores that name each row's
image.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from diht_k8s.cli.main import main
from tests.recipe.filter.shards import filter_with, rows_of, run_of

GOOD = "a small dog chasing a red ball"


def test_limits_find_the_columns_of_an_imported_table_and_scores_name_the_images(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    lines = ["image,caption,punsafe"]
    for number, unsafe in enumerate(("0.1", "0.9", "")):
        Image.new("RGB", (64, 48), (number, 90, 200)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{GOOD},{unsafe}")
    (folder / "pairs.csv").write_text("\n".join(lines))
    assert main(["import", str(folder / "pairs.csv"), str(tmp_path / "pool")]) == 0
    limits = {"metadataLimits": [{"name": "punsafe", "max": 0.5}]}
    filter_with(run_of(tmp_path / "out", f"{tmp_path}/pool/00000.tar", limits))
    assert [(row.source, row.reason) for row in rows_of(tmp_path / "out", "web-00000")] == [
        ("0.png", ""),
        ("1.png", "metadata"),
        ("2.png", ""),
    ]
