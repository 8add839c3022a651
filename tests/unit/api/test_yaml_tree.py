from __future__ import annotations

import pytest

from diht_k8s.api.yaml_tree import YamlError, read_tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 0.0005),
        ("1e6", 1000000),
        ("1.0", 1),
        ("1.0e-5", 0.00001),
        ("16000000000", 16000000000),
        ("0.8", 0.8),
        (".5", 0.5),
        ("1_000", 1000),
        ("0x10", 16),
        ("0o17", 15),
        ("017", 15),
        ("089", 89),
        ("-3", -3),
        ("yes", True),
        ("y", True),
        ("Off", False),
        ("n", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("'5e-4'", "5e-4"),
        ('"yes"', "yes"),
        ("!!str 5", "5"),
        ("&a !!str 5", "5"),
        ('!!int "5"', 5),
        ('!!float "5e-1"', 0.5),
        ("!!null ''", None),
        ("ViT-B-16", "ViT-B-16"),
        ("1.2.3", "1.2.3"),
        ("2026-11-25", "2026-11-25"),
    ],
)
def test_scalar_is_read_as_the_api_server_reads_it(text: str, value: object) -> None:
    got = read_tree(f"a: {text}").value["a"]
    assert got == value
    assert type(got) is type(value)


def test_lines_of_fields_and_items_are_known() -> None:
    tree = read_tree("a:\n  b:\n  - x\n  - y: 1\n")
    assert tree.line_of(("a", "b")) == 2
    assert tree.line_of(("a", "b", 1, "y")) == 4
    assert tree.line_of(("a", "b", 1, "missing")) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "line 2: the key 'a' appears twice"),
        ("a: [1\n", "line"),
        ("a: 1\n---\nb: 2\n", "line 2"),
        ("a: " + "[" * 200 + "]" * 200, "nested deeper"),
        ("a: " + "[" * 9000 + "]" * 9000, "nested deeper"),
        ("a: &a {b: *a}", "aliases"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "".join(
                f"{x}: &{x} [*{y},*{y},*{y},*{y},*{y},*{y},*{y},*{y}]\n"
                for x, y in zip("bcdefgh", "abcdefg", strict=True)
            ),
            "aliases",
        ),
        ("a: {<<: 5}", "<< takes a mapping"),
        ("b: 1\na: \x07\n", r"^line 2: the character '\\x07' is not allowed in YAML$"),
        ("b: 1\na: \ud800\n", r"^line 2: the character '\\ud800' is not allowed in YAML$"),
        ("b: 1\n[a]: 2\n", "line 2: a key must be text"),
        ("a: !!binary aGk=", "line 1: a tag is not allowed here: leave it out"),
        ("a: !!python/name:os.system x", "line 1: a tag is not allowed here"),
        ("a: !!set {b, c}", "line 1: a tag is not allowed here"),
        ("a: !!int b", "line 1: the value is no int, as its tag !!int says"),
        ("a" * (1 << 21), "characters"),
    ],
)
def test_broken_yaml_is_an_error_with_a_line(text: str, message: str) -> None:
    with pytest.raises(YamlError, match=message):
        read_tree(text)


@pytest.mark.parametrize(
    "value",
    ["*S3cret", "!!int S3cret", "!!bool S3cret", "!S3cret", "!!S3cret x", "!S3cret!x y", "[*S3cret"],
)
def test_a_secret_without_quotes_is_not_in_the_message(value: str) -> None:
    with pytest.raises(YamlError, match=r"^line 2: ") as caught:
        read_tree(f"b: 1\na: {value}\n")
    assert "S3cret" not in str(caught.value)


def test_an_unquoted_boolean_key_becomes_text() -> None:
    assert read_tree("n: 1").value == {"false": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x: &x {a: 1, b: 2}\nt: {<<: *x, b: 3}", {"a": 1, "b": 3}),
        ("x: &x {a: 1, b: 2}\nt: {b: 3, <<: *x}", {"a": 1, "b": 3}),
        ("x: &x {a: 1}\nz: &z {a: 2, c: 3}\nt: {<<: [*x, *z]}", {"a": 1, "c": 3}),
        ("t: {'<<': 1}", {"<<": 1}),
    ],
)
def test_merge_key_brings_in_what_the_mapping_lacks(text: str, value: object) -> None:
    assert read_tree(text).value["t"] == value
