"""A planted mistake in a page's commands, documents, links or sentences is found, and what is right is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.check_docs import ROOT, check_page

DOCUMENT = """apiVersion: diht.dev/v1alpha1
kind: DihtRun
metadata: {name: a}
spec:
  data: {sources: [{name: web, shards: [a.tar]}], output: out}
  filter: {minComplexity: 1}
"""


def problems(text: str, path: str = "docs/how-to/x.md") -> list[str]:
    return [hit.problem for hit in check_page(path, text)]


def fence(language: str, body: str) -> str:
    return f"# Title\n\n```{language}\n{body}\n```\n"


@pytest.mark.parametrize(
    "text",
    [
        fence("", "diht run my-run.yaml --until label --set filter.minComplexity=2   # a comment, with 'words"),
        fence("sh", "$ diht crd | kubectl apply --server-side -f -"),
        fence("", "diht benchmarks import cifar/ bench/cifar10 \\\n  --split test"),
        fence("", "AWS_REGION=x .venv/bin/diht run examples/demo.yaml && make demo"),
        fence("", "make images IMAGE_PREFIX=registry.example.org/"),
        fence("", "torchx run -s local_cwd components.train -j 1x2 -- --run my-run.yaml"),
        fence("text", "diht runn"),
        fence("yaml", DOCUMENT.rstrip()),
        fence("yaml", "train:\n  model: ViT-B-32\n  samples: 1000\n  batchSize: 8"),
        fence("yaml", "queueName: research"),
        fence("yaml", "apiVersion: v1\nkind: Pod"),
        fence("python", "from diht_k8s import load_model"),
        "`diht why NAME`, `diht report A B`, `diht run FILE --until filter`, `diht COMMAND --help`\n",
        "[the filter](../filter.md#several-workers), [elsewhere](https://arxiv.org/abs/2301.02280)\n",
    ],
)
def test_what_is_right_is_not_found(text: str) -> None:
    assert problems(text) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (fence("", "diht runn my-run.yaml"), "unknown command 'runn': did you mean run?"),
        (fence("", "diht run my-run.yaml --untill label"), "did you mean --until?"),
        (fence("", "cat x | diht run"), "the following arguments are required: FILE"),
        (fence("", "diht run examples/demo.yaml --set filter.minComplexty=2"), "did you mean minComplexity?"),
        (fence("", "diht run my-run.yaml --set train.samples=many"), "train.samples"),
        (fence("", "diht run examples/dmo.yaml"), "examples/dmo.yaml is not there"),
        (fence("", "diht validate my-run.yaml \\\n  --gpus H100"), "did you mean --gpu?"),
        (fence("", "make demoo"), "make has no target demoo"),
        (fence("", "benchmarks/run loder"), "there is no benchmark loder"),
        (fence("", "torchx run components.trian -- --run a.yaml"), "there is no component trian"),
        (fence("", "python tools/nothing.py"), "tools/nothing.py is not there"),
        (fence("yaml", DOCUMENT.replace("minComplexity", "minComplexty")), "did you mean minComplexity?"),
        (fence("yaml", "train:\n  modle: ViT-B-32"), "did you mean model?"),
        (fence("yaml", "que: research"), "neither a run document nor keys of a spec or of pods"),
        (fence("yaml", "a: [1"), "not YAML"),
        (fence("python", "from diht_k8s import load_modle"), "diht_k8s does not export load_modle"),
        (fence("python", "for"), "not Python"),
        ("`diht wy NAME`\n", "diht has no command wy"),
        ("`diht run FILE --replac`\n", "diht run has no option --replac"),
        ("[x](../nothing.md)\n", "link to ../nothing.md: not there"),
        ("[x](../filter.md#several-wrkers)\n", "no such heading"),
        ("word " * 31 + "end.\n", "a sentence of 32 words"),
    ],
)
def test_planted_mistake_is_found(text: str, problem: str) -> None:
    assert any(problem in found for found in problems(text)), problems(text)


def test_place_of_a_mistake_is_its_line() -> None:
    text = "# Title\n\ntext\n\n```\nmake demo\nmake test \\\n  lint\nmake demoo\n```\n\n[x](gone.md)\n"
    assert [(hit.path, hit.line) for hit in check_page("docs/x.md", text)] == [("docs/x.md", 9), ("docs/x.md", 12)]


def test_long_sentences_are_allowed_on_pages_that_were_not_rewritten() -> None:
    text = "word " * 40 + "end.\n"
    assert problems(text, "docs/training.md") == []
    assert problems(text, "README.md") != []


def test_demo_that_readme_names_is_checked_with_its_overrides(tmp_path: Path) -> None:
    assert (ROOT / "examples/demo.yaml").is_file()
    hits = check_page("README.md", fence("", "diht run examples/demo.yaml --set evaluate.split=Developement"))
    assert len(hits) == 1
