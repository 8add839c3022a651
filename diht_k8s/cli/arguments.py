"""The arguments of every `diht` command, with the function that it calls.

`diht --help` must answer at once, so a parser names its function (`run:run_command` of `diht_k8s.cli`), and `main`
imports that when the command runs. The function gets what the parser reads, by name.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from diht_k8s import __version__
from diht_k8s.api.errors import suggestion
from diht_k8s.api.steps import STEPS

Commands = Any
"""argparse's object to which commands are added; its type has no public name."""
BENCHMARKS_IMPORT: Final = "benchmarks-import"
"""How the parser names `diht benchmarks import`, whose first word takes a folder otherwise."""
EXIT_CODES: Final = (
    "exit codes: 0 done or cached, 64 user error (configuration), 65 bad data, 75 transient error (try again), "
    "143 stopped on request, 1 anything else"
)
FILE: Final = "the run document (YAML or JSON)"
HARDWARE: Final = ("laptop", "gpu-node", "cluster")
RUN_FILE: Final = "run.yaml"
RUNS: Final = "runs"
"""Where runs of this machine are looked for by name."""
SHELLS: Final = ("bash", "zsh", "tcsh")
STAGES: Final = ("filter", "label", "train", "evaluate")
OPERATOR: Final = "operator"
RUN: Final = "a run document, output folder or name (see diht list) of this machine, else the NAME of a cluster's run"


class _DihtParser(argparse.ArgumentParser):
    """Wrong usage is a user error: exit code 64, not argparse's 2. Options are written in full, since a beginning may
    mean two later.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)
        self.groups = dict[str, Sequence[argparse.Action]]()
        """The commands by what a person does with them; empty of the parser of one command."""

    def format_help(self) -> str:
        """The commands of the whole parser by what a person does with them."""
        if not self.groups:
            return super().format_help()
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        options = [each for each in self._actions if each.option_strings]
        for title, actions in (*self.groups.items(), ("options", options)):
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def parse_args(self, args: Sequence[str], namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        """Name the option nearest to an unknown one, with the usage of its command, where argparse shows that of
        `diht`.
        """
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = parsers_of(self)[options.of_command]
            command.error(
                _unknown_argument(unknown[0], [name for each in command._actions for name in each.option_strings])
            )
        return options

    def exit(self, status: int = 0, message: str | None = None) -> None:  # type: ignore[override]
        super().exit(64 if status == 2 else status, message)

    def error(self, message: str) -> NoReturn:
        """Name the command nearest to an unknown one, where argparse would list them all."""
        unknown = re.match(r"argument COMMAND: invalid choice: '(.*)' \(choose from (.*)\)$", message)
        if unknown is None:
            super().error(message)
        commands = [name for name in unknown[2].replace("'", "").split(", ") if name != BENCHMARKS_IMPORT]
        hint = suggestion(unknown[1], commands, "`diht --help` lists the commands")
        super().error(f"unknown command {unknown[1]!r}: {hint}")


def _unknown_argument(word: str, options: Sequence[str]) -> str:
    if word.startswith("-"):
        name = word.partition("=")[0]
        return f"unrecognized option {name}: {suggestion(name, options, 'see --help')}"
    if "=" in word and "--set" in options:
        return f"unrecognized argument {word}: repeat --set for each field (--set {word})"
    return f"unrecognized argument {word}"


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the reference page is made from it."""
    parser = _DihtParser(
        prog="diht",
        description="The DiHT recipe: CAT filter, concept labels, training with hard negatives, evaluation.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"diht {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="of_command")
    for title, add in GROUPS:
        before = len(commands._choices_actions)
        add(commands)
        parser.groups[title] = commands._choices_actions[before:]
    return parser


def parsers_of(whole: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands by name, in the order of the help; a change of them is one of the whole parser."""
    return next(action.choices for action in whole._actions if isinstance(action, argparse._SubParsersAction))


def _add(
    commands: Commands, name: str, command: str, says: str, description: str = "", extra: str = "recipe"
) -> argparse.ArgumentParser:
    """A command.

    Args:
        commands: all of them.
        name: its word.
        command: its function.
        says: what it does, in the list of all.
        description: the same in more words; empty where that says it all.
        extra: of the package, that it needs.
    """
    parser = commands.add_parser(
        name, help=says, description=description or f"{says[0].upper()}{says[1:]}.", epilog=EXIT_CODES
    )
    parser.set_defaults(command=command, extra=extra)
    return parser


def _add_for_file(
    commands: Commands, name: str, command: str, says: str, description: str = "", extra: str = "recipe"
) -> argparse.ArgumentParser:
    """A command on a run document, of which fields may be changed."""
    parser = _add(commands, name, command, says, description, extra)
    parser.add_argument("path", metavar="FILE", help=FILE)
    _add_set(parser)
    return parser


def _add_for_name(
    commands: Commands, name: str, command: str, says: str, named: str = "name of the run"
) -> argparse.ArgumentParser:
    """A command on a run by its name."""
    parser = _add(commands, name, command, says, extra=OPERATOR)
    parser.add_argument("name", metavar="NAME" if named != RUN else "RUN", help=named)
    _add_namespace(parser)
    return parser


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="overrides",
        help="change a field below spec, for example train.samples=1000; may be repeated",
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON value in place of text")


def _add_namespace(parser: argparse.ArgumentParser, says: str = "that of the current context if unset") -> None:
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help=says)


def _add_page(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", metavar="FILE", default="comparison.html", help="the comparison's page (comparison.html)"
    )


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--worker", type=int, metavar="I", help="index of this worker, from 0; else DIHT_WORKER, else 0"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="number of workers; else DIHT_WORKERS, else 1")


def _add_start(commands: Commands) -> None:
    parser = _add(
        commands,
        "import",
        "imports:import_pairs_command",
        "write images with captions that lie on disk as shards for a run",
        "Write image-caption pairs that lie on disk as shards (OUTPUT/00000.tar, ...), as spec.data.sources reads "
        "them. SOURCE is a folder of images with NAME.txt, NAME.caption or NAME.json beside each; a table (.csv, "
        ".tsv, .jsonl, .parquet, .arrow) with captions and the images or their paths; COCO's captions or Karpathy's "
        "splits (.json); Flickr30k's .token file; or a Hugging Face data set on disk. Shards that lie in SOURCE "
        "already, as img2dataset writes them, are checked and stay where they are. Nothing is downloaded. The last "
        "lines say what became of each file or row: stored, left out by reason, or ignored by suffix. An interrupted "
        "import resumes when it is started again.",
    )
    parser.add_argument("source", metavar="SOURCE", help="folder, table or annotation file, on this machine")
    parser.add_argument("output", metavar="OUTPUT", nargs="?", help="folder or s3:// prefix for the shards")
    parser.add_argument(
        "--split", default="train", metavar="NAME", help="split of a Hugging Face data set or of Karpathy's (train)"
    )
    parser.add_argument("--image-column", metavar="NAME", help="column of a table with the images or their paths")
    parser.add_argument(
        "--caption-column", metavar="NAME", help="column of a table (or name in the .json) with captions"
    )
    parser.add_argument(
        "--delimiter",
        metavar="C",
        help="between the cells of a .csv, .tsv or .txt: one character, or tab (its usual one)",
    )
    parser.add_argument(
        "--captions",
        choices=("each", "first", "list"),
        default="each",
        help=(
            "of an image with several: a pair for each (the default), for the first, or one with all of them to draw "
            "from"
        ),
    )
    _add_import(parser)
    parser = _add(
        commands,
        "init",
        "onboarding.init:init_command",
        "look at shards and this machine, and write a run document that fits",
        "Look at shards of image-caption pairs (counts, image sizes, captions) and at this machine, and write a "
        "commented run document: model, batch, samples, topK, minCount, workers, thresholds, and a held-out split by "
        "groups, whose pairs are copied to runs/NAME-held-out. It never asks; what it chose stands in the document.",
    )
    parser.add_argument(
        "data", metavar="DATA", nargs="?", default=".", help="folder or s3:// prefix of the shards, or a pattern (.)"
    )
    parser.add_argument("--output", metavar="FILE", default=RUN_FILE, help=f"the run document ({RUN_FILE})")
    parser.add_argument("--name", metavar="NAME", help="name of the run; that of DATA's folder if unset")
    parser.add_argument(
        "--for",
        choices=HARDWARE,
        dest="hardware",
        metavar="PLACE",
        help="laptop, gpu-node or cluster; this machine's if unset: gpu-node where it has a GPU",
    )
    parser.add_argument(
        "--words",
        metavar="TABLE",
        help="table of word vectors (.safetensors, or text as GloVe's or fastText's) for the training of a small pool",
    )
    parser.add_argument("--replace", action="store_true", help="replace FILE and the held-out pairs if they exist")
    _add_json(parser)
    parser = _add_for_file(
        commands,
        "validate",
        "checks:validate_command",
        "check a run document",
        "Check a run document by the API server's rules; names line, field and what to do.",
        extra="",
    )
    parser.add_argument(
        "--gpu",
        metavar="NAME",
        help=(
            "warn if the training does not fit on this GPU or the pods' CPUs cannot feed it; else that of its node "
            "selector"
        ),
    )
    parser.add_argument(
        "--cluster", action="store_true", help="the run is for a cluster: paths that its pods will not find are errors"
    )
    _add_json(parser)
    parser = _add(
        commands,
        "doctor",
        "onboarding.doctor:doctor_command",
        "say what is wrong with this machine, a run's storage and shards",
        "Check versions of packages and devices; with a run document its text, disk, storage (conditional writes, "
        "rights) and shards; with shards (a folder, a pattern, an s3:// prefix) those alone: suffixes, damage, the "
        "first bad sample, sizes. One sentence for each thing that is wrong; exit code 64 if there is one.",
    )
    parser.add_argument("target", metavar="RUN|SHARDS", nargs="?", help="a run document, or shards")
    parser.add_argument(
        "--all", action="store_true", dest="every", help="read every shard, not 8 that are spread over all"
    )
    _add_json(parser)
    parser = _add_for_file(
        commands,
        "estimate",
        "estimate:estimate_command",
        "say whether a training fits on a GPU, and what it computes",
        "Estimate the training of a run document on a GPU: memory of a rank by part (in JSON in bytes), the largest "
        "micro-batch, FLOPs, and with --mfu samples/s and days. Nothing runs and no GPU is needed. Exit code 64 if it "
        "does not fit.",
    )
    parser.add_argument(
        "--gpu", required=True, metavar="NAME", help="H100, A100-80, L40S, ...; an unknown name lists all"
    )
    parser.add_argument("--nodes", type=int, metavar="N", help="pods of the gang; train.numNodes if unset")
    parser.add_argument(
        "--mfu",
        type=float,
        metavar="SHARE",
        help="share of the GPU's peak at which it computes, for the time; recomputed activations count as work",
    )
    _add_json(parser)
    parser = _add_for_file(
        commands,
        "run",
        "run:run_command",
        "run all stages on this machine; resumes an interrupted run",
        "Run all stages of a run document on this machine. Finished stages are cached, an interrupted one resumes. "
        "Relative paths in the document are taken from the current folder; a relative data.output from --workdir.",
    )
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder for a relative data.output; the current folder if unset"
    )
    parser.add_argument("--until", choices=STAGES, metavar="STAGE", help=f"end after this stage: {', '.join(STAGES)}")
    parser.add_argument("--verbose", action="store_true", help="say at the end where the time of each stage went")
    parser = _add_for_file(
        commands,
        "sweep",
        "sweep:sweep_command",
        "run the variants of a document, and compare them",
        "Run all combinations of some values of a document's fields, one after another here, or by the operator with "
        "--submit. Stages that variants have in common are computed once. A table of the variants comes first, and a "
        "comparison with the first variant last. The same command resumes an interrupted sweep. Each run is named "
        "after its values, as in demo-beta-0-5-seed-1.",
    )
    parser.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="PATH=V1,V2",
        help="values of a field below spec, for example train.loss.beta=0.25,0.5; may be repeated. Each is read as by "
        "--set; commas inside brackets, braces and quotes separate "
        "nothing: data.sources.0.shards=[a.tar],[a.tar,b.tar]",
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="of each combination N trainings, from the document's seed on"
    )
    _add_page(parser)
    parser.add_argument("--submit", action="store_true", help="send one DihtRun each to the cluster")
    parser.add_argument(
        "--dry-run", action="store_true", help="only print the table, with --submit also ask the cluster"
    )
    _add_namespace(parser, "with --submit; that of the current context if unset")


def _add_import(parser: argparse.ArgumentParser) -> None:
    """Add what imports of pairs and of benchmarks have in common."""
    parser.add_argument(
        "--format", metavar="NAME", dest="kind", help="layout of SOURCE; found by what lies there if unset"
    )
    parser.add_argument(
        "--images", metavar="DIR", help="folder of the images, where they are not beside the table or annotations"
    )
    parser.add_argument(
        "--allow-links",
        metavar="DIR",
        action="append",
        default=[],
        help=(
            "read files in DIR to which links or paths in SOURCE lead; without it none outside of SOURCE; may be "
            "repeated"
        ),
    )
    parser.add_argument("--shard-size", type=int, default=1000, metavar="N", help="most images in a shard (1000)")
    parser.add_argument("--replace", action="store_true", help="remove the import that is in OUTPUT; other files stay")
    _add_json(parser)


def _add_look(commands: Commands) -> None:
    parser = _add_for_name(commands, "status", "local_runs:status_command", "say how a run stands, and why", RUN)
    _add_json(parser)
    parser = _add(
        commands,
        "list",
        "local_runs:list_command",
        "list the runs of this machine, or of a cluster",
        "List the runs below a folder of this machine; with --namespace those of a cluster's namespace.",
        OPERATOR,
    )
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", default=RUNS, help=f"where runs write their output ({RUNS})"
    )
    _add_namespace(parser, "list the cluster's runs there")
    parser.add_argument("--sweep", metavar="NAME", help="only the variants of the run NAME, see diht sweep")
    _add_json(parser)
    parser = _add_for_name(
        commands, "logs", "local_runs:logs_command", "print the logs of a stage's newest attempt", RUN
    )
    parser.add_argument(
        "stage", nargs="?", metavar="STAGE", help="filter, label, train, evaluate, or a step: label-heads"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="keep printing new lines (of the first pod)")
    parser.add_argument("--tail", type=int, metavar="LINES", dest="lines", help="only the last lines")
    parser = _add_for_file(
        commands,
        "explain",
        "corpus:explain_command",
        "show what became of a pair at each stage of a run, and why",
        "Show what became of a pair: whether the filter kept it and by which rule and number it did not, whether it "
        "has labels, how often the training drew it. Without NAME, print all pairs as CSV for a spreadsheet: names, "
        "verdict, scores. Nothing is changed.",
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="its uid, its key in a shard, or the path or row that it came from"
    )
    _add_json(parser)
    parser = _add(
        commands,
        "concepts",
        "captions:concepts_command",
        "show the concepts of a run: commonest, rarest, cut",
        "Show the concept classes that the stage label made of the captions: the commonest, the rarest kept, and what"
        " was cut and why. FILE is a run document, a run's output folder or a vocabulary.json (a path or s3:// URI).",
    )
    parser.add_argument("path", metavar="FILE", help="a run document, an output folder, or a vocabulary.json")
    _add_set(parser)
    _add_json(parser)
    parser = _add(
        commands,
        "parse",
        "captions:parse_command",
        "show what the CAT filter sees in a caption",
        "Show objects, attributes, relations, complexity and actions of captions, as the CAT filter sees them.",
    )
    parser.add_argument("captions", nargs="+", metavar="CAPTION")
    parser.add_argument(
        "--why", action="store_true", help="also show the parser's tree and each correction rule that changed it"
    )
    _add_json(parser)
    parser = _add(
        commands,
        "path",
        "document:path_command",
        "print the folder in which a stage of a run lies",
        "Print the folder in which a stage of a run lies: for a script, or for a field of another run document "
        "(filter.scoresFrom, train.labels, evaluate.model).",
    )
    parser.add_argument("run", metavar="RUN", help="a run document, the folder of a run, or an output: its last run")
    parser.add_argument("stage", metavar="STAGE", choices=STAGES, help=", ".join(STAGES))
    _add_set(parser)
    _add_json(parser)
    parser = _add(
        commands,
        "benchmarks",
        "benchmarks:benchmarks_command",
        "list known benchmarks and those in a folder; import others",
        "List the benchmarks of a catalogue; with ROOT, say which lie below it (ROOT/NAME/test/*.tar, the layout of "
        "clip-benchmark), and what else lies there in this layout. --yaml prints the complete ones of the catalogue "
        "as spec.evaluate.benchmarks of a run document. `diht benchmarks import SOURCE OUTPUT` writes a data set on "
        "disk in this layout (see its --help).",
    )
    parser.add_argument("root", metavar="ROOT", nargs="?", help="folder or s3:// prefix that holds benchmarks")
    parser.add_argument(
        "--list", default="diht29", dest="name", metavar="NAME", help="diht29 (default), datacomp38 or vtab"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="this benchmark only, one of the list or a folder below ROOT; may be repeated",
    )
    parser.add_argument("--yaml", action="store_true", dest="as_yaml", help="print a part of a run document")
    _add_json(parser)
    _add_benchmarks_import(commands)


def _add_benchmarks_import(commands: Commands) -> None:
    parser = commands.add_parser(BENCHMARKS_IMPORT, prog="diht benchmarks import")
    parser.description = (
        "Write a data set that lies on disk as benchmark shards (OUTPUT/test/*.tar, with class names and templates "
        "beside them), the layout that evaluate and clip-benchmark read. SOURCE is a folder (one for each class; a "
        "Hugging Face data set in Parquet or Arrow; with --format NAME the root of what torchvision opens, such as "
        "cifar10), or an annotation file (COCO's captions, Karpathy's splits, Flickr30k's captions). Nothing is "
        "downloaded. An "
        "interrupted import resumes when it is started again."
    )
    parser.add_argument("source", metavar="SOURCE", help="folder or annotation file of the original, on this machine")
    parser.add_argument("output", metavar="OUTPUT", help="folder or s3:// prefix for the benchmark")
    parser.add_argument("--split", default="test", metavar="NAME", help="split of the original (test)")
    parser.add_argument(
        "--class-names", metavar="FILE", help="one class name a line, in the order of the class numbers"
    )
    parser.add_argument(
        "--templates", metavar="FILE", help="one prompt template a line, {c} standing for the class name"
    )
    _add_import(parser)
    parser.set_defaults(command="imports:import_benchmark_command", extra="recipe")


def _add_compare(commands: Commands) -> None:
    parser = _add(
        commands,
        "report",
        "results:report_command",
        "compare the evaluations of several runs side by side",
        "Compare evaluations side by side: a table on stdout and a page. Each RUN is a run document, a run's folder "
        "or report.json, or an output, which stands for all its runs. Runs that differ only in their seed share one "
        "column, which shows their spread. Differences to the first RUN are paired over the images and tested.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+")
    _add_page(parser)
    _add_json(parser)


def _add_clean_up(commands: Commands) -> None:
    parser = _add(
        commands,
        "prune",
        "prune:prune_command",
        "show what an output takes, and remove what no run needs",
        "Show the folders of an output by size, and who refers to each: runs by their pointers and documents, folders"
        " by what they read. What nobody refers to is removable; with --keep also other runs, and what only they "
        "refer to. Nothing is removed without --yes. Files that no stage wrote stay, and so do folders in which "
        "somebody works: claims there are watched for up to two minutes. Start an interrupted prune again to finish "
        "it.",
    )
    parser.add_argument("output", metavar="OUTPUT", help="the output of runs (data.output), or a run document")
    parser.add_argument(
        "--keep",
        action="extend",
        nargs="+",
        metavar="RUN",
        help="the runs that shall stay: run documents, run folders, NAME or NAME/DIGEST; all if unset",
    )
    parser.add_argument("--yes", action="store_true", help="remove what is removable")
    _add_json(parser)
    parser = _add_for_file(
        commands,
        "purge",
        "corpus:purge_command",
        "take pairs out of a run's output (takedowns)",
        "Take pairs out of all that the runs of an output have written: kept shards, scores and labels, whose markers"
        " are updated, evaluations and pages that show them, logs. Refused while a filter, label or evaluate stage "
        "runs there. Start an interrupted purge again to finish it. A model that was trained on the pairs stays as it"
        " is.",
    )
    parser.add_argument(
        "--exclude",
        required=True,
        metavar="LIST",
        help="uids, source paths, SHA-256 of URLs or SHA-256 of images, one a line (a path or s3:// URI)",
    )
    _add_json(parser)


def _add_cluster(commands: Commands) -> None:
    parser = _add_for_file(
        commands, "submit", "cluster:submit", "send a run to the cluster, or change it there", extra=OPERATOR
    )
    parser.add_argument("--dry-run", action="store_true", help="only ask the cluster whether it accepts the run")
    _add_namespace(parser)
    _add_for_name(commands, "watch", "watch:watch", "follow a run until it has ended")
    parser = _add_for_file(
        commands,
        "plan",
        "cluster:plan_command",
        "print every object that a run would create, without a cluster",
        extra=OPERATOR,
    )
    parser.add_argument("--show-secrets", action="store_true", help="print literal values of pods.env too")
    _add_namespace(parser)
    _add_for_name(commands, "retry", "cluster:retry", "resume a run that failed")
    _add_for_name(commands, "cancel", "cluster:cancel", "delete a run; what it finished stays")
    parser = _add(
        commands,
        "crd",
        "packaged:crd_command",
        "print the CustomResourceDefinition, for kubectl apply",
        "Print the CustomResourceDefinition of runs: diht crd | kubectl apply --server-side -f -",
        "",
    )
    _add_file(parser)
    parser = _add(
        commands,
        "chart",
        "packaged:chart_command",
        "write the operator's Helm chart into a folder",
        "Write the Helm chart of the operator into a folder: diht chart diht-operator, then helm install "
        "diht-operator ./diht-operator --namespace diht-system --create-namespace",
        "",
    )
    parser.add_argument("output", metavar="DIR", help="folder of the chart; created if it is missing")


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="FILE", help="write it into this file in place of the screen")


def _add_for_developers(commands: Commands) -> None:
    parser = _add(
        commands,
        "convert",
        "convert:convert_command",
        "write a model for Hugging Face's transformers",
        "Write a model as CLIPModel.from_pretrained of transformers reads it. SOURCE is a folder with "
        "open_clip_config.json, a checkpoint file (.safetensors, .pt, .pth, .bin, or a released DiHT .ckpt) or an "
        "open_clip NAME/TAG; TARGET is a folder.",
    )
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument(
        "--architecture",
        metavar="NAME",
        help="open_clip's name of the architecture, for a checkpoint file whose shapes do not determine it",
    )
    _add_json(parser)
    parser = _add_for_file(
        commands,
        "index",
        "corpus:index_command",
        "count the samples of a run's shards and note where they stand",
        "Index the shards that the training of a run reads: how many samples each has, and where they stand. With an "
        "index a training reads no shard to count it, and reads samples by ranges. The filter makes an index on its "
        "way: this command is for runs without one. Several workers share the shards; start it again after a stop. "
        "Shards that are indexed in this version are not read again.",
    )
    _add_workers(parser)
    _add_json(parser)
    parser = _add_for_file(
        commands,
        "uids",
        "corpus:uids_command",
        "write the uids of the kept pairs as DataComp's tools read them",
        "Write the uids of the pairs that the filter of a run kept: a sorted NumPy array of dtype u8,u8, the subset "
        "file of DataComp's resharder, with which its trainer trains on them. All uids must have 32 hexadecimal "
        "digits.",
    )
    parser.add_argument("--output", metavar="LIST", default="uids.npy", help="the list, a path or s3:// URI (uids.npy)")
    _add_json(parser)
    parser = _add(
        commands,
        "stage",
        "stage:stage_command",
        "run one stage as one worker: what a pod runs",
        "Run one stage as one worker of several that share it. This is what runs inside a pod: the run document comes"
        " from --run or from the environment variable DIHT_RUN. For train a worker is a node.",
    )
    parser.add_argument("name", choices=STAGES, metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--run", metavar="FILE", dest="path", help="the run document; DIHT_RUN holds one if unset")
    _add_set(parser)
    _add_workers(parser)
    parser.add_argument(
        "--step",
        choices=[step for steps in STEPS.values() for step in steps],
        default="",
        help="for label: run only this step; only predict is shared by workers. For train: wait, until no other run "
        "computes the same training",
    )
    parser = _add(
        commands,
        "samples",
        "packaged:samples_command",
        "list, print or write sample run documents",
        "List the sample run documents, print one of them, or write them into a folder.",
        "",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this one; all are listed if unset")
    parser.add_argument("--output", metavar="DIR", help="write NAME, or all of them, into this folder")
    parser = _add(
        commands,
        "schema",
        "packaged:schema_command",
        "print the JSON schema of run documents, for editors",
        "Print the JSON schema of run documents. An editor that knows it completes fields and marks wrong ones: begin"
        " the document with `# yaml-language-server: $schema=FILE`.",
        "",
    )
    _add_file(parser)
    parser = _add(
        commands,
        "completion",
        "packaged:completion_command",
        "print a script that completes commands in a shell",
        "Print a script that completes commands, options and files. For bash: diht completion bash > "
        "~/.local/share/bash-completion/completions/diht",
        "",
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


GROUPS: Final = (
    ("start", _add_start),
    ("look", _add_look),
    ("compare", _add_compare),
    ("clean up", _add_clean_up),
    ("cluster", _add_cluster),
    ("for developers and scripts", _add_for_developers),
)
"""The commands by what a person does, as `diht --help` shows them."""
