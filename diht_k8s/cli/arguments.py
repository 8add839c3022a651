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
GROUPS: Final = (
    ("start", ("import", "init", "validate", "doctor", "estimate", "run", "sweep")),
    ("look", ("status", "list", "logs", "explain", "concepts", "parse", "path", "benchmarks")),
    ("compare", ("report",)),
    ("clean up", ("prune", "purge")),
    ("cluster", ("submit", "watch", "plan", "retry", "cancel", "crd", "chart")),
    ("for developers and scripts", ("convert", "index", "uids", "stage", "samples", "schema", "completion")),
)
"""The commands by what a person does, as `diht --help` shows them."""


class _DihtParser(argparse.ArgumentParser):
    """Wrong usage is a user error: exit code 64, not argparse's 2. Options are written in full, since a beginning may
    mean two later.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def format_help(self) -> str:
        """The commands of the whole parser by what a person does with them."""
        listed = next((each for each in self._actions if isinstance(each, argparse._SubParsersAction)), None)
        if listed is None:
            return super().format_help()
        formatter, helps = self._get_formatter(), {each.dest: each for each in listed._choices_actions}
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        options = [each for each in self._actions if each.option_strings]
        for title, actions in (
            *((title, [helps[name] for name in names]) for title, names in GROUPS),
            ("options", options),
        ):
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
    parser.set_defaults(extra="recipe")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="of_command")
    for add in (
        *(_add_import, _add_init, _add_validate, _add_doctor, _add_estimate, _add_run, _add_sweep),
        *(_add_local_and_cluster, _add_explain, _add_concepts, _add_parse, _add_path, _add_benchmarks),
        *(_add_benchmarks_import, _add_report, _add_prune, _add_purge, _add_cluster, _add_convert, _add_index),
        *(_add_uids, _add_stage, _add_packaged),
    ):
        add(commands)
    return parser


def parsers_of(whole: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands by name, in the order of the help; a change of them is one of the whole parser."""
    return next(action.choices for action in whole._actions if isinstance(action, argparse._SubParsersAction))


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="overrides",
        help="change a field below spec, for example train.samples=1000; may be repeated",
    )


def _add_json(parser: argparse.ArgumentParser, says: str = "print one JSON value in place of text") -> None:
    parser.add_argument("--json", action="store_true", dest="as_json", help=says)


def _add_import(commands: Commands) -> None:
    parser = commands.add_parser("import", help="write images with captions that lie on disk as shards for a run")
    parser.description = (
        "Write image-caption pairs that lie on disk as shards (OUTPUT/00000.tar, ...), as spec.data.sources reads "
        "them. SOURCE is a folder of images with NAME.txt, NAME.caption or NAME.json beside each; a table (.csv, "
        ".tsv, .jsonl, .parquet, .arrow) with captions and the images or their paths; COCO's captions or Karpathy's "
        "splits (.json); Flickr30k's .token file; or a Hugging Face data set on disk. Shards that lie in SOURCE "
        "already, as img2dataset writes them, are checked and stay where they are. Nothing is downloaded. The last "
        "lines say what became of each file or row: stored, left out by reason, or ignored by suffix. An interrupted "
        "import resumes when it is started again."
    )
    parser.add_argument("source", metavar="SOURCE", help="folder, table or annotation file, on this machine")
    parser.add_argument("output", metavar="OUTPUT", nargs="?", help="folder or s3:// prefix for the shards")
    parser.add_argument(
        "--format", metavar="NAME", dest="kind", help="layout of SOURCE; found by what lies there if unset"
    )
    parser.add_argument(
        "--split", default="train", metavar="NAME", help="split of a Hugging Face data set or of Karpathy's (train)"
    )
    parser.add_argument(
        "--images", metavar="DIR", help="folder of the images, where they are not beside the table or annotations"
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
    _add_allow_links(parser)
    parser.add_argument("--shard-size", type=int, default=1000, metavar="N", help="most images in a shard (1000)")
    parser.add_argument("--replace", action="store_true", help="remove the import that is in OUTPUT; other files stay")
    _add_json(parser, "print one JSON object")
    parser.set_defaults(command="imports:import_pairs_command")


def _add_allow_links(parser: argparse.ArgumentParser) -> None:
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


def _add_init(commands: Commands) -> None:
    parser = commands.add_parser("init", help="look at shards and this machine, and write a run document that fits")
    parser.description = (
        "Look at shards of image-caption pairs (counts, image sizes, captions) and at this machine, and write a "
        "commented run document: model, batch, samples, topK, minCount, workers, thresholds, and a held-out split by "
        "groups, whose pairs are copied to runs/NAME-held-out. It never asks; what it chose stands in the document."
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
    parser.add_argument("--replace", action="store_true", help="replace FILE and the held-out pairs if they exist")
    _add_json(parser, "print one JSON object")
    parser.set_defaults(command="onboarding.init:init_command")


def _add_run(commands: Commands) -> None:
    parser = commands.add_parser(
        "run", help="run all stages on this machine; resumes an interrupted run", epilog=EXIT_CODES
    )
    parser.description = (
        "Run all stages of a run document on this machine. Finished stages are cached, an interrupted one resumes. "
        "Relative paths in the document are taken from the current folder; a relative data.output from --workdir."
    )
    parser.add_argument("path", metavar="FILE", help=FILE)
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder for a relative data.output; the current folder if unset"
    )
    parser.add_argument("--until", choices=STAGES, metavar="STAGE", help=f"end after this stage: {', '.join(STAGES)}")
    parser.add_argument("--verbose", action="store_true", help="say at the end where the time of each stage went")
    _add_set(parser)
    parser.set_defaults(command="run:run_command")


def _add_sweep(commands: Commands) -> None:
    parser = commands.add_parser("sweep", help="run the variants of a document, and compare them", epilog=EXIT_CODES)
    parser.description = (
        "Run all combinations of some values of a document's fields, one after another here, or by the operator with "
        "--submit. Stages that variants have in common are computed once. A table of the variants comes first, and a "
        "comparison last; the first variant is what the others are compared with. The same command goes on with an "
        "interrupted sweep. Each run is called by its values, as in demo-beta-0-5-seed-1."
    )
    parser.add_argument("path", metavar="FILE", help=FILE)
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
    parser.add_argument(
        "--output", metavar="FILE", default="comparison.html", help="the comparison's page (comparison.html)"
    )
    parser.add_argument("--submit", action="store_true", help="send one DihtRun each to the cluster")
    parser.add_argument(
        "--dry-run", action="store_true", help="only print the table, with --submit also ask the cluster"
    )
    _add_set(parser)
    parser.add_argument(
        "-n", "--namespace", metavar="NAMESPACE", help="with --submit; that of the current context if unset"
    )
    parser.set_defaults(command="sweep:sweep_command")


def _add_validate(commands: Commands) -> None:
    parser = commands.add_parser("validate", help="check a run document", epilog=EXIT_CODES)
    parser.description = "Check a run document by the API server's rules; names line, field and what to do."
    parser.add_argument("path", metavar="FILE", help=FILE)
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
    _add_set(parser)
    _add_json(parser)
    parser.set_defaults(command="checks:validate_command", extra="")


def _add_doctor(commands: Commands) -> None:
    parser = commands.add_parser("doctor", help="say what is wrong with this machine, a run's storage and shards")
    parser.description = (
        "Check versions of packages and devices; with a run document its text, disk, storage (conditional writes, "
        "rights) and shards; with shards (a folder, a pattern, an s3:// prefix) those alone: suffixes, damage, the "
        "first bad sample, sizes. One sentence for each thing that is wrong; exit code 64 if there is one."
    )
    parser.add_argument("target", metavar="RUN|SHARDS", nargs="?", help="a run document, or shards")
    parser.add_argument(
        "--all", action="store_true", dest="every", help="read every shard, not 8 that are spread over all"
    )
    _add_json(parser, "print one JSON object")
    parser.set_defaults(command="onboarding.doctor:doctor_command")


def _add_estimate(commands: Commands) -> None:
    parser = commands.add_parser(
        "estimate", help="say whether a training fits on a GPU, and what it computes", epilog=EXIT_CODES
    )
    parser.description = (
        "Estimate the training of a run document on a GPU: memory of a rank by part, the largest micro-batch, FLOPs, "
        "and with --mfu samples/s and days. Nothing runs and no GPU is needed. Exit code 64 if it does not fit."
    )
    parser.add_argument("path", metavar="FILE", help=FILE)
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
    _add_json(parser, "print one JSON object; memory in bytes")
    _add_set(parser)
    parser.set_defaults(command="estimate:estimate_command")


def _add_stage(commands: Commands) -> None:
    parser = commands.add_parser("stage", help="run one stage as one worker: what a pod runs", epilog=EXIT_CODES)
    parser.description = (
        "Run one stage as one worker of several that share it. This is what runs inside a pod: the run document comes"
        " from --run or from the environment variable DIHT_RUN, worker and workers from DIHT_WORKER and DIHT_WORKERS."
        " For train a worker is a node."
    )
    parser.add_argument("name", choices=STAGES, metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--run", metavar="FILE", dest="path", help="the run document; DIHT_RUN holds one if unset")
    _add_set(parser)
    parser.add_argument("--worker", type=int, metavar="I", help="index of this worker, from 0")
    parser.add_argument("--workers", type=int, metavar="N", help="number of workers")
    parser.add_argument(
        "--step",
        choices=[step for steps in STEPS.values() for step in steps],
        default="",
        help="for label: run only this step; only predict is shared by workers. For train: wait, until no other run "
        "computes the same training",
    )
    parser.set_defaults(command="stage:stage_command")


def _add_parse(commands: Commands) -> None:
    parser = commands.add_parser("parse", help="show what the CAT filter sees in a caption")
    parser.description = (
        "Show objects, attributes, relations, complexity and actions of captions, as the CAT filter sees them."
    )
    parser.add_argument("captions", nargs="+", metavar="CAPTION")
    parser.add_argument(
        "--why", action="store_true", help="also show the parser's tree and each correction rule that changed it"
    )
    _add_json(parser)
    parser.set_defaults(command="captions:parse_command")


def _add_concepts(commands: Commands) -> None:
    parser = commands.add_parser(
        "concepts", help="show the concepts of a run: commonest, rarest, cut", epilog=EXIT_CODES
    )
    parser.description = (
        "Show the concept classes that the stage label made of the captions: the commonest, the rarest kept, and what"
        " was cut and why. FILE is a run document, a run's output folder or a vocabulary.json (a path or s3:// URI)."
    )
    parser.add_argument("path", metavar="FILE", help="a run document, an output folder, or a vocabulary.json")
    _add_set(parser)
    _add_json(parser)
    parser.set_defaults(command="captions:concepts_command")


def _add_path(commands: Commands) -> None:
    parser = commands.add_parser("path", help="print the folder in which a stage of a run lies", epilog=EXIT_CODES)
    parser.description = (
        "Print the folder in which a stage of a run lies: for a script, or for a field of another run document "
        "(filter.scoresFrom, train.labels, evaluate.model)."
    )
    parser.add_argument("run", metavar="RUN", help="a run document, the folder of a run, or an output: its last run")
    parser.add_argument("stage", metavar="STAGE", choices=STAGES, help=", ".join(STAGES))
    _add_set(parser)
    _add_json(parser)
    parser.set_defaults(command="document:path_command")


def _add_index(commands: Commands) -> None:
    parser = commands.add_parser(
        "index", help="count the samples of a run's shards and note where they stand", epilog=EXIT_CODES
    )
    parser.description = (
        "Index the shards that the training of a run reads: how many samples each has, and where they stand. With an "
        "index a training reads no shard to count it, and reads samples by ranges. The filter makes an index on its "
        "way: this command is for runs without one. Several workers share the shards; start it again after a stop. "
        "Shards that are indexed in this version are not read again."
    )
    parser.add_argument("path", metavar="FILE", help=FILE)
    _add_set(parser)
    parser.add_argument(
        "--worker", type=int, metavar="I", help="index of this worker, from 0; else DIHT_WORKER, else 0"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="number of workers; else DIHT_WORKERS, else 1")
    _add_json(parser)
    parser.set_defaults(command="corpus:index_command")


def _add_uids(commands: Commands) -> None:
    parser = commands.add_parser(
        "uids", help="write the uids of the kept pairs as DataComp's tools read them", epilog=EXIT_CODES
    )
    parser.description = (
        "Write the uids of the pairs that the filter of a run kept: a sorted NumPy array of dtype u8,u8, the subset "
        "file of DataComp's resharder, with which its trainer trains on them. All uids must have 32 hexadecimal "
        "digits."
    )
    parser.add_argument("path", metavar="FILE", help=FILE)
    _add_set(parser)
    parser.add_argument("--output", metavar="LIST", default="uids.npy", help="the list, a path or s3:// URI (uids.npy)")
    _add_json(parser)
    parser.set_defaults(command="corpus:uids_command")


def _add_explain(commands: Commands) -> None:
    parser = commands.add_parser(
        "explain", help="show what became of a pair at each stage of a run, and why", epilog=EXIT_CODES
    )
    parser.description = (
        "Show what became of a pair: whether the filter kept it and by which rule and number it did not, whether it "
        "has labels, how often the training drew it. Without NAME, print all pairs as CSV for a spreadsheet: names, "
        "verdict, scores. Nothing is changed."
    )
    parser.add_argument("path", metavar="FILE", help=FILE)
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="its uid, its key in a shard, or the path or row that it came from"
    )
    _add_set(parser)
    _add_json(parser)
    parser.set_defaults(command="corpus:explain_command")


def _add_purge(commands: Commands) -> None:
    parser = commands.add_parser("purge", help="take pairs out of a run's output (takedowns)", epilog=EXIT_CODES)
    parser.description = (
        "Take pairs out of all that the runs of an output have written: kept shards, scores and labels, whose markers"
        " are updated, evaluations and pages that show them, logs. Refused while a filter, label or evaluate stage "
        "runs there. Start an interrupted purge again to finish it. A model that was trained on the pairs stays as it"
        " is."
    )
    parser.add_argument("path", metavar="FILE", help=FILE)
    parser.add_argument(
        "--exclude",
        required=True,
        metavar="LIST",
        help="uids, source paths, SHA-256 of URLs or SHA-256 of images, one a line (a path or s3:// URI)",
    )
    _add_set(parser)
    _add_json(parser)
    parser.set_defaults(command="corpus:purge_command")


def _add_prune(commands: Commands) -> None:
    parser = commands.add_parser(
        "prune", help="show what an output takes, and remove what no run needs", epilog=EXIT_CODES
    )
    parser.description = (
        "Show the folders of an output by size, and who refers to each: runs by their pointers and documents, folders"
        " by what they read. What nobody refers to is removable; with --keep also other runs, and what only they "
        "refer to. Nothing is removed without --yes. Files that no stage wrote stay, and so do folders in which "
        "somebody works: claims there are watched for up to two minutes. Start an interrupted prune again to finish "
        "it."
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
    _add_json(parser, "print one JSON object")
    parser.set_defaults(command="prune:prune_command")


def _add_benchmarks(commands: Commands) -> None:
    parser = commands.add_parser("benchmarks", help="list known benchmarks and those in a folder; import others")
    parser.description = (
        "List the benchmarks of a catalogue; with ROOT, say which lie below it (ROOT/NAME/test/*.tar, the layout of "
        "clip-benchmark), and what else lies there in this layout. --yaml prints the complete ones of the catalogue "
        "as spec.evaluate.benchmarks of a run document. `diht benchmarks import SOURCE OUTPUT` writes a data set on "
        "disk in this layout (see its --help)."
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
    parser.set_defaults(command="benchmarks:benchmarks_command")


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
    parser.add_argument(
        "--format", metavar="NAME", dest="kind", help="layout of SOURCE; found by what lies there if unset"
    )
    parser.add_argument("--split", default="test", metavar="NAME", help="split of the original (test)")
    parser.add_argument(
        "--images", metavar="DIR", help="folder of the images, where they are not beside the annotations"
    )
    parser.add_argument(
        "--class-names", metavar="FILE", help="one class name a line, in the order of the class numbers"
    )
    parser.add_argument(
        "--templates", metavar="FILE", help="one prompt template a line, {c} standing for the class name"
    )
    _add_allow_links(parser)
    parser.add_argument("--shard-size", type=int, default=1000, metavar="N", help="most images in a shard (1000)")
    parser.add_argument("--replace", action="store_true", help="remove the import that is in OUTPUT; other files stay")
    _add_json(parser, "print one JSON object")
    parser.set_defaults(command="imports:import_benchmark_command")


def _add_convert(commands: Commands) -> None:
    parser = commands.add_parser("convert", help="write a model for Hugging Face's transformers")
    parser.description = (
        "Write a model as CLIPModel.from_pretrained of transformers reads it. SOURCE is a folder with "
        "open_clip_config.json, a checkpoint file (.safetensors, .pt, .pth, .bin, or a released DiHT .ckpt) or an "
        "open_clip NAME/TAG; TARGET is a folder."
    )
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("target", metavar="TARGET")
    parser.add_argument(
        "--architecture",
        metavar="NAME",
        help="open_clip's name of the architecture, for a checkpoint file whose shapes do not determine it",
    )
    _add_json(parser)
    parser.set_defaults(command="convert:convert_command")


def _add_report(commands: Commands) -> None:
    parser = commands.add_parser("report", help="compare the evaluations of several runs side by side")
    parser.description = (
        "Compare evaluations side by side: a table on stdout and a page. Each RUN is a run document, a run's folder "
        "or report.json, or an output, which stands for all its runs. Runs that differ only in their seed share one "
        "column, which shows their spread. Differences to the first RUN are paired over the images and tested."
    )
    parser.add_argument("runs", metavar="RUN", nargs="+")
    parser.add_argument("--output", metavar="FILE", default="comparison.html", help="the page (comparison.html)")
    _add_json(parser)
    parser.set_defaults(command="results:report_command")


def _add_local_and_cluster(commands: Commands) -> None:
    """Add the commands on the runs of this machine or of a cluster."""
    status = _add_for_name(commands, "status", "local_runs:status_command", "say how a run stands, and why", RUN)
    _add_json(status, "print one JSON object")
    runs = _add(commands, "list", "local_runs:list_command", "list the runs of this machine, or of a cluster", OPERATOR)
    runs.description = "List the runs below a folder of this machine; with --namespace those of a cluster's namespace."
    runs.add_argument(
        "folder", metavar="FOLDER", nargs="?", default=RUNS, help=f"where runs write their output ({RUNS})"
    )
    runs.add_argument("-n", "--namespace", metavar="NAMESPACE", help="list the cluster's runs there")
    runs.add_argument("--sweep", metavar="NAME", help="only the variants of the run NAME, see diht sweep")
    _add_json(runs, "print one JSON list")
    logs = _add_for_name(commands, "logs", "local_runs:logs_command", "print the logs of a stage's newest attempt", RUN)
    logs.add_argument(
        "stage", nargs="?", metavar="STAGE", help="filter, label, train, evaluate, or a step: label-heads"
    )
    logs.add_argument("-f", "--follow", action="store_true", help="keep printing new lines (of the first pod)")
    logs.add_argument("--tail", type=int, metavar="LINES", dest="lines", help="only the last lines")


def _add_cluster(commands: Commands) -> None:
    """Add the commands on a cluster's runs."""
    submit = _add_for_file(commands, "submit", "cluster:submit", "send a run to the cluster, or change it there")
    submit.add_argument("--dry-run", action="store_true", help="only ask the cluster whether it accepts the run")
    _add_for_name(commands, "watch", "watch:watch", "follow a run until it has ended")
    plan = _add_for_file(
        commands, "plan", "cluster:plan_command", "print every object that a run would create, without a cluster"
    )
    plan.add_argument("--show-secrets", action="store_true", help="print literal values of pods.env too")
    _add_for_name(commands, "retry", "cluster:retry", "resume a run that failed")
    _add_for_name(commands, "cancel", "cluster:cancel", "delete a run; what it finished stays")


def _add_for_name(
    commands: Commands, name: str, command: str, says: str, named: str = "name of the run"
) -> argparse.ArgumentParser:
    """A command on a run by its name."""
    parser = _add(commands, name, command, says, OPERATOR)
    parser.add_argument("name", metavar="NAME" if named != RUN else "RUN", help=named)
    return _with_namespace(parser)


def _add_for_file(commands: Commands, name: str, command: str, says: str) -> argparse.ArgumentParser:
    """A command on a run document, for a cluster."""
    parser = _add(commands, name, command, says, OPERATOR)
    parser.add_argument("path", metavar="FILE", help=FILE)
    _add_set(parser)
    return _with_namespace(parser)


def _with_namespace(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help="that of the current context if unset")
    return parser


def _add(commands: Commands, name: str, command: str, says: str, extra: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
    parser.set_defaults(command=command, extra=extra)
    return parser


def _add_packaged(commands: Commands) -> None:
    completion = _add(
        commands, "completion", "packaged:completion_command", "print a script that completes commands in a shell", ""
    )
    completion.description = (
        "Print a script that completes commands, options and files. For bash: diht completion bash > "
        "~/.local/share/bash-completion/completions/diht"
    )
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    schema = _add(
        commands, "schema", "packaged:schema_command", "print the JSON schema of run documents, for editors", ""
    )
    schema.description = (
        "Print the JSON schema of run documents. An editor that knows it completes fields and marks wrong ones: begin"
        " the document with `# yaml-language-server: $schema=FILE`."
    )
    crd = _add(commands, "crd", "packaged:crd_command", "print the CustomResourceDefinition, for kubectl apply", "")
    crd.description = "Print the CustomResourceDefinition of runs: diht crd | kubectl apply --server-side -f -"
    for parser in (schema, crd):
        parser.add_argument("--output", metavar="FILE", help="write it into this file in place of the screen")
    samples = _add(commands, "samples", "packaged:samples_command", "list, print or write sample run documents", "")
    samples.description = "List the sample run documents, print one of them, or write them into a folder."
    samples.add_argument("name", nargs="?", metavar="NAME", help="print this one; all are listed if unset")
    samples.add_argument("--output", metavar="DIR", help="write NAME, or all of them, into this folder")
    chart = _add(commands, "chart", "packaged:chart_command", "write the operator's Helm chart into a folder", "")
    chart.description = (
        "Write the Helm chart of the operator into a folder: diht chart diht-operator, then helm install "
        "diht-operator ./diht-operator --namespace diht-system --create-namespace"
    )
    chart.add_argument("output", metavar="DIR", help="folder of the chart; created if it is missing")
