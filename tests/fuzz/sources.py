"""Hostile sources for `diht import`, each with what an import owes for it. Nothing here uses the readers under test.

The oracle counts what it lays down: names that are no folders, rows, entries. Of some pairs it knows that they are
sound, and these must come out with their caption; of a secret outside of the source it knows that nothing may come out.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SECRET = "root:x:0:0:the secret"
"""Content of a file outside of the source, and part of the names there."""
STEMS = (
    "plain",
    "with space",
    "new\nline",
    "tab\there",
    "quote'\"",
    "-rf",
    "~",
    "*",
    "%s%n",
    "back\\slash",
    "a.b.c",
    "trailing.",
    "é",
    "e\u0301",
    "🦊",
    "\u202etxt",
    "\u0085",
    "x" * 200,
    "é" * 100,
    "CON",
    "{0..9}",
    "$(id)",
    "a,b",
    "a#0",
    "#",
    "a..",
    os.fsdecode(b"caf\xe9"),
    os.fsdecode(b"\xff\xfe"),
)
HIDDEN = (".", "..hidden", ".DS_Store", "._plain")
SUFFIXES = (".jpg", ".JPG", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".tiff")
OTHERS = (".mp4", ".pdf", "", ".x\ny", ".exe", ".jpg~", ".heics")


def _encoded(form: str, size: tuple[int, int] = (16, 12)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(buffer, form)
    return buffer.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


SOUND = [_encoded(form) for form in ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")]
BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(bytes(1000)))
    + _chunk(b"IEND", b"")
)
BROKEN = [
    b"",
    b"\0" * 700,
    b"\xff\xd8",
    b"RIFF\0\0\0\0WEBP",
    b"\x89PNG",
    b"%PDF-1.4",
    BOMB,
    _encoded("PNG", (2, 2)),
    b"BM" + struct.pack("<IIIIIIHHII", 90, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0) + bytes(40),
    b"P6 99999999 99999999 255\n",
    b"II*\0\x08\0\0\0\xff\xff" + bytes(40),
    b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(90),
    b"\0\0\0\x1cftypavif\0\0\0\0mif1avif" + bytes(90),
    b"\0\0\0\x18ftypisom" + bytes(40),
    b"GIF89a" + b"\xff" * 40,
    *(data[: len(data) // 2] for data in SOUND[:4]),
]
BAD_TEXTS = [
    b"",
    b" \n\t ",
    b"caf\xe9 au lait",
    b"\xed\xa0\x80 lone",
    b"\xff\xfea\0 \0d\0o\0g\0",
    b"a" * 20_000,
    b"\0",
    b"\xc3",
]
BAD_JSON = [
    b"",
    b"{",
    b"[]",
    b"7",
    b'{"caption": 7}',
    b'{"caption": null}',
    b'{"caption": ["a", {}]}',
    b"\xff",
    b"[" * 5000,
    b'{"caption": "\\ud800"}',
    b'{"n": ' + b"1" * 5000 + b"}",
    b'{"caption": {"a": 1}}',
]


@dataclass
class Source:
    """A source, and what an import owes for it."""

    path: Path
    kind: str
    count: int | None = 0
    """files, rows, lines or entries; None where the bytes do not tell."""
    captions: list[str] = field(default_factory=list)
    """of pairs that are sound."""
    options: tuple[str, ...] = ()


class _Maker:
    """Lays down files and counts them."""

    def __init__(self, rng: random.Random, root: Path) -> None:
        self.rng, self.root, self.count, self.number = rng, root, 0, 0
        self.captions: list[str] = []
        self.folders = [root]

    def stem(self) -> Path:
        self.number += 1
        return self.rng.choice(self.folders) / f"{self.rng.choice(STEMS)}{self.number}"

    def caption(self) -> str:
        self.number += 1
        return f"{self.rng.choice(['a dog runs', 'ein Fuß', 'кот', '🦊 and 犬'])} {self.number}"

    def file(self, path: Path, data: bytes) -> Path:
        path.write_bytes(data)
        self.count += 1
        return path

    def link(self, path: Path, target: Path | str) -> Path:
        path.symlink_to(target)
        self.count += 1
        return path

    def pair(self) -> None:
        stem, said = self.stem(), self.caption()
        self.file(Path(f"{stem}{self.rng.choice(SUFFIXES)}"), self.rng.choice(SOUND))
        if self.rng.random() < 0.3:
            meta = self.rng.choice([{}, {"score": float("nan")}, {"uid": f"u{self.number}"}, {"x": {"y": ["z"] * 50}}])
            self.file(Path(f"{stem}.json"), json.dumps({"caption": said, **meta}).encode())
        else:
            self.file(Path(f"{stem}{self.rng.choice(['.txt', '.caption'])}"), said.encode())
        self.captions.append(said)


def _bad_image(make: _Maker, outside: Path) -> None:
    stem = make.stem()
    make.file(Path(f"{stem}{make.rng.choice(SUFFIXES)}"), make.rng.choice(BROKEN))
    make.file(Path(f"{stem}.txt"), b"a dog")


def _bad_caption(make: _Maker, outside: Path) -> None:
    stem = make.stem()
    make.file(Path(f"{stem}.jpg"), make.rng.choice(SOUND))
    suffix, content = make.rng.choice([(".txt", BAD_TEXTS), (".json", BAD_JSON)])
    make.file(Path(f"{stem}{suffix}"), make.rng.choice(content))


def _alone(make: _Maker, outside: Path) -> None:
    make.file(Path(f"{make.stem()}{make.rng.choice(['.jpg', '.txt', '.json', '.caption'])}"), make.rng.choice(SOUND))


def _other(make: _Maker, outside: Path) -> None:
    make.file(Path(f"{make.stem()}{make.rng.choice(OTHERS)}"), make.rng.randbytes(20))


def _hidden(make: _Maker, outside: Path) -> None:
    make.number += 1
    folder = make.rng.choice(make.folders) / f"{make.rng.choice(HIDDEN)}{make.number}"
    if make.rng.random() < 0.5:
        folder.mkdir()
        folder = folder / "inner.jpg"
    make.file(folder, make.rng.choice(SOUND))


def _folder(make: _Maker, outside: Path) -> None:
    path = Path(f"{make.stem()}{make.rng.choice(['', '.jpg', '.txt'])}")
    if len(os.fsencode(path)) < 700:
        path.mkdir()
        make.folders.append(path)


def _special(make: _Maker, outside: Path) -> None:
    path = Path(f"{make.stem()}{make.rng.choice(['.jpg', '.txt', ''])}")
    if make.rng.random() < 0.5 or len(os.fsencode(path)) > 100:
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.fsencode(path))
    make.count += 1


def _link(make: _Maker, outside: Path) -> None:
    stem = make.stem()
    target = make.rng.choice(
        [
            outside / "shadow",
            outside / "picture.jpg",
            outside,
            make.root,
            "nowhere",
            f"{stem.name}.jpg",
            "/dev/zero",
            "/proc",
            os.path.relpath(outside, stem.parent),
            ".",
            "..",
            "/",
            "x" * 300,
            outside / "within",
        ]
    )
    kind = make.rng.randrange(3)
    make.link(Path(f"{stem}{['.jpg', '.txt', ''][kind]}"), target)
    if kind == 0:
        make.file(Path(f"{stem}.txt"), b"a dog")
    elif kind == 1:
        make.file(Path(f"{stem}.jpg"), make.rng.choice(SOUND))


def _linked_pair(make: _Maker, outside: Path) -> None:
    stem, said = make.stem(), make.caption()
    own = make.file(make.root / f"real{make.number}.bin", make.rng.choice(SOUND))
    make.link(Path(f"{stem}.jpg"), make.rng.choice([own, os.path.relpath(own, stem.parent)]))
    make.file(Path(f"{stem}.txt"), said.encode())
    make.captions.append(said)


FILES: tuple[Callable[[_Maker, Path], None], ...] = (
    _bad_image,
    _bad_caption,
    _alone,
    _other,
    _hidden,
    _folder,
    _special,
    _link,
    _linked_pair,
)


def _outside(root: Path) -> Path:
    """A folder beside the source that it must not reach, with a link back into the source."""
    outside = root / "outside"
    outside.mkdir()
    (outside / "shadow").write_text(SECRET)
    (outside / "picture.jpg").write_bytes(SOUND[0] + SECRET.encode())
    (outside / "picture.txt").write_text(SECRET)
    (outside / "within").symlink_to(root / "in")
    return outside


def folder(rng: random.Random, root: Path) -> Source:
    """Images with captions beside them."""
    make, outside = _Maker(rng, root / "in"), _outside(root)
    make.root.mkdir()
    for _ in range(rng.randint(1, 12)):
        rng.choice((_Maker.pair, *(lambda m, f=f: f(m, outside) for f in FILES)))(make)
    if rng.random() < 0.8:
        make.pair()
    return Source(make.root, "folder", make.count, make.captions)


@dataclass
class _Rows:
    """Rows of a table: sound ones and others."""

    rows: list[dict[str, Any]]
    captions: list[str]


def _rows(rng: random.Random, root: Path) -> _Rows:
    make, outside = _Maker(rng, root / "in"), _outside(root)
    make.root.mkdir()
    found = _Rows([], [])
    (make.root / "bad.jpg").write_bytes(rng.choice(BROKEN))
    (make.root / "leads-out.jpg").symlink_to(outside / "picture.jpg")
    (make.root / "empty-name.jpg").mkdir()
    paths: list[Any] = [
        "bad.jpg",
        "leads-out.jpg",
        "empty-name.jpg",
        "gone.jpg",
        "../outside/picture.jpg",
        str(outside / "picture.jpg"),
        "",
        "x" * 400,
        "/dev/zero",
        "a\0b.jpg",
        ".",
        "..",
        "http://example.org/a.jpg",
        "\n",
        "https://x",
        "/proc/self/environ",
    ]
    said: list[Any] = ["", " ", "a" * 20_000, "\ud800", "\udce9", "two\nlines", '"', "nul\0", "=1+1", ",", "\r"]
    for _ in range(rng.randint(0, 10)):
        row = {"image": rng.choice(paths), "caption": rng.choice([*said, "a dog"])}
        found.rows.append({**row, **rng.choice([{}, {"score": rng.choice(["1", "x", "", "1e999", "-0"])}])})
    for _ in range(rng.randint(1, 4)):
        path, caption = make.stem(), make.caption()
        if "\n" in path.name or not path.name.isprintable():
            path = make.root / f"plain{make.number}"
        name = f"{path.name}.jpg"
        (make.root / name).write_bytes(rng.choice(SOUND))
        found.rows.insert(rng.randint(0, len(found.rows)), {"image": name, "caption": caption, "score": "0.5"})
        found.captions.append(caption)
    return found


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def table(rng: random.Random, root: Path) -> Source:
    """A CSV or TSV file, now and then with lines that are none."""
    made, delimiter = _rows(rng, root), rng.choice([",", "\t", ";", "|"])
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writerow(["image", "score", "caption"])
    for row in made.rows:
        writer.writerow([row["image"], row.get("score", ""), row["caption"]])
    data, count = _bytes_of(text.getvalue()), len(made.rows)
    if rng.random() < 0.5:
        data = b"\xef\xbb\xbf" + data
    if rng.random() < 0.3:
        data += rng.choice([b"one cell\n", b"\n\n", b"\xff\xfe\n", b"x" * 200_000 + b"\n"])
        count = None
    if rng.random() < 0.2:
        data, count = data + b'gone.jpg,"1', None
    path = root / "in" / rng.choice(["pairs.csv", "pairs.tsv", "PAIRS.CSV"])
    path.write_bytes(data)
    return Source(path, "table", count, made.captions, ("--delimiter", delimiter))


def json_lines(rng: random.Random, root: Path) -> Source:
    """JSON lines, now and then with lines that are none."""
    made = _rows(rng, root)
    lines = [json.dumps(row, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass") for row in made.rows]
    bad = [
        b"{",
        b"[]",
        b"7",
        b"[" * 3000,
        b'{"image": ' + b"1" * 5000 + b"}",
        b"\xff",
        b'{"image": "x\ry", "caption": 1}',
        b"null",
        b'{"image": {"path": 5}, "caption": ["a", 7]}',
        b'{"caption": "a"}',
        b"{}",
        b"\x00",
        b'{"image": ["a"], "caption": "b"}',
        b"\xef\xbb\xbf",
    ]
    for _ in range(rng.randint(0, 6)):
        lines.insert(rng.randint(1, len(lines)), rng.choice(bad))
    count = len(lines)
    for _ in range(rng.randint(0, 3)):
        lines.insert(rng.randint(1, len(lines)), rng.choice([b"", b"  ", b"\t\r", b"\xc2\x85"]))
    path = root / "in/pairs.jsonl"
    path.write_bytes(rng.choice([b"", b"\xef\xbb\xbf"]) + rng.choice([b"\n", b"\r\n"]).join(lines))
    return Source(path, "json lines", count, made.captions)


def parquet(rng: random.Random, root: Path) -> Source:
    """A Parquet file with bytes and columns of many types."""
    (root / "in").mkdir()
    _outside(root)
    captions = [f"a dog runs {number}" for number in range(rng.randint(1, 4))]
    images: list[Any] = [rng.choice(SOUND) for _ in captions]
    said: list[Any] = [*captions]
    for _ in range(rng.randint(0, 8)):
        images.append(rng.choice([*BROKEN, None, SOUND[0]]))
        said.append(rng.choice([None, "", "a" * 20_000, "nul\0", "\x85"]))
    rows = len(images)
    others: dict[str, Any] = {
        "when": pa.array([rng.choice([0, 2**62, -(2**62), None]) for _ in range(rows)], pa.timestamp("ms")),
        "number": pa.array([rng.choice([float("inf"), 0.5, None]) for _ in range(rows)]),
        "vector": pa.array([[0.5] * rng.choice([2, 2000]) for _ in range(rows)]),
        "raw": pa.array([b"\xff"] * rows),
        "text": pa.StringArray.from_buffers(
            rows, pa.array(range(0, rows + 1), pa.int32()).buffers()[1], pa.py_buffer(b"\xff" * rows)
        ),
        "source_path": pa.array(["mine"] * rows),
    }
    chosen = {name: others[name] for name in rng.sample(sorted(others), rng.randint(0, len(others)))}
    cells = images if rng.random() < 0.5 else [{"bytes": image, "path": "a/../b.jpg"} for image in images]
    path = root / "in/pairs.parquet"
    pq.write_table(pa.table({"image": cells, "caption": said, **chosen}), path, row_group_size=rng.randint(1, 5))
    return Source(path, "parquet", rows, captions)


def coco(rng: random.Random, root: Path) -> Source:
    """COCO's captions with entries of wrong types, repeated, or without counterparts."""
    made = _rows(rng, root)
    images: list[Any] = [{"id": number, "file_name": row["image"]} for number, row in enumerate(made.rows)]
    said: list[Any] = [{"image_id": number, "caption": row["caption"]} for number, row in enumerate(made.rows)]
    junk = [7, None, [], {}, "x", {"id": 999}, {"id": 998, "file_name": 5}, {"id": "a", "file_name": "gone.jpg"}]
    for _ in range(rng.randint(0, 5)):
        images.insert(rng.randint(0, len(images)), rng.choice(junk))
    for _ in range(rng.randint(0, 5)):
        entry = rng.choice(
            [
                7,
                None,
                {"image_id": 0},
                {"caption": "lost"},
                {"image_id": -1, "caption": "lost"},
                {"image_id": 998, "caption": "lost"},
                {"image_id": [], "caption": "a"},
                {"image_id": 0, "caption": 1},
            ]
        )
        said.insert(rng.randint(0, len(said)), entry)
    path = root / "in/captions.json"
    path.write_text(json.dumps({"images": images, "annotations": said}))
    return Source(path, "coco", len(images) + len(said), made.captions)


def tokens(rng: random.Random, root: Path) -> Source:
    """Flickr30k's lines, now and then of other forms."""
    make = _Maker(rng, root / "in")
    make.root.mkdir()
    _outside(root)
    (make.root / "a.jpg").write_bytes(SOUND[0])
    captions = [make.caption() for _ in range(rng.randint(1, 4))]
    lines = [f"a.jpg#{number}\t{caption}".encode() for number, caption in enumerate(captions)]
    bad = [
        b"x",
        b"#0\ta",
        b"a.jpg\tb",
        b"../outside/picture.jpg#0\ta dog",
        b"gone.jpg#0\ta",
        b"a.jpg#9\t\xff",
        b"\xff#0\ta",
        b"\t",
        b"a\0b#0\tc",
        b"y" * 400 + b"#0\ta",
    ]
    for _ in range(rng.randint(0, 6)):
        lines.insert(rng.randint(1, len(lines)), rng.choice(bad))
    filled = [line for line in lines if line.strip()]
    path = make.root / "results_20130124.token"
    path.write_bytes(rng.choice([b"\n", b"\r\n"]).join(lines))
    return Source(path, "tokens", len(filled), captions)


KINDS: tuple[Callable[[random.Random, Path], Source], ...] = (folder, table, json_lines, parquet, coco, tokens)


def source(seed: int, root: Path) -> Source:
    """The source of a number; every second one is a folder."""
    rng = random.Random(seed)
    return (KINDS[0] if seed % 2 else KINDS[1 + seed // 2 % (len(KINDS) - 1)])(rng, root)
