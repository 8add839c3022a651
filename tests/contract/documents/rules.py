"""Rules over several fields, and what is YAML's own: numbers, booleans, duplicate keys."""

from __future__ import annotations

from tests.contract.documents import Case, bad, good, yaml_run
from tests.unit.api.documents import REMOVE

TRAIN = "  train: {model: ViT-B-16, batchSize: 8, distillation: {mode: Disabled}, %s}"
CLASSES = {"name": "x", "type": "Classification", "shards": ["a"]}
CAPTIONS = {"name": "pool", "captions": ["s3://pool/{0..9}.parquet"]}
CLIP_TEACHER = {"model": "open_clip/ViT-B-32", "weights": "s3://corpus/clip.safetensors", "textEmbeddings": True}
STAGES = ("filter", "label", "train", "evaluate")


def reads(name: str, spec: str, *, metadata: str = "{name: a-run}") -> Case:
    return Case(name, yaml_run(spec, metadata=metadata), good=True)


def refuses(name: str, spec: str, says: str = "") -> Case:
    return Case(name, yaml_run(spec), good=False, says=says)


RULES = [
    good("filter alone", spec__label=REMOVE, spec__train=REMOVE, spec__evaluate=REMOVE),
    good("filter and label", spec__train=REMOVE, spec__evaluate=REMOVE),
    good(
        "training on the labels of another run",
        spec__filter=REMOVE,
        spec__label=REMOVE,
        spec__train__labels="s3://corpus/other/label",
    ),
    good(
        "training without concepts",
        spec__filter=REMOVE,
        spec__label=REMOVE,
        spec__train__distillation={"mode": "Disabled"},
    ),
    good(
        "evaluation alone",
        spec__filter=REMOVE,
        spec__label=REMOVE,
        spec__train=REMOVE,
        spec__evaluate__model="s3://corpus/m",
    ),
    good("classification with names", spec__evaluate={"benchmarks": [{**CLASSES, "classNames": "names.txt"}]}),
    good(
        "batch of 1 pair a process", spec__train__batchSize=16, spec__train__numNodes=4, spec__train__processesPerNode=4
    ),
    good("batch that the processes do not divide", spec__train__batchSize=9, spec__train__numNodes=2),
    good(
        "default batch on 63 nodes of 8",
        spec__train__batchSize=REMOVE,
        spec__train__numNodes=63,
        spec__train__processesPerNode=8,
    ),
    good(
        "batch that leaves the last processes without a pair",
        spec__train__batchSize=10,
        spec__train__processesPerNode=7,
    ),
    good("micro-batch that does not divide", spec__train__batchSize=16, spec__train__microBatchSize=5),
    good(
        "default batch on 16 nodes of 8",
        spec__train__batchSize=REMOVE,
        spec__train__numNodes=16,
        spec__train__processesPerNode=8,
    ),
    good("parameters on the host with stage 3", spec__train__offload="Parameters", spec__train__zeroStage=3),
    good("optimiser on the host with the default stage", spec__train__offload="Optimizer"),
    good("managed by our operator", spec__managedBy="diht.dev/operator"),
    good("managed by MultiKueue", spec__managedBy="kueue.x-k8s.io/multikueue"),
    bad("managed by a name without its domain", "managedBy", spec__managedBy="operator"),
    bad(
        "no stage",
        "spec has no stage: give at least one",
        spec__filter=REMOVE,
        spec__label=REMOVE,
        spec__train=REMOVE,
        spec__evaluate=REMOVE,
    ),
    bad(
        "stage that is null is no stage",
        "spec has no stage",
        spec__filter=None,
        spec__label=None,
        spec__train=None,
        spec__evaluate=None,
    ),
    good(
        "evaluation alone, no pairs",
        spec__filter=REMOVE,
        spec__label=REMOVE,
        spec__train=REMOVE,
        spec__evaluate__model="s3://corpus/m",
        spec__data__sources=REMOVE,
    ),
    good(
        "captions without images",
        spec__label=REMOVE,
        spec__train=REMOVE,
        spec__evaluate=REMOVE,
        spec__data__sources=[CAPTIONS],
    ),
    bad(
        "shards and captions in one source",
        "give exactly one of them",
        spec__data__sources=[{**CAPTIONS, "shards": ["a.tar"]}],
    ),
    bad("neither shards nor captions", "give exactly one of them", spec__data__sources=[{"name": "a"}]),
    bad(
        "captions beside shards",
        "has captions beside shards",
        spec__label=REMOVE,
        spec__train=REMOVE,
        spec__evaluate=REMOVE,
        spec__data__sources=[CAPTIONS, {"name": "web", "shards": ["a.tar"]}],
    ),
    bad("training on captions alone", "has captions without images", spec__data__sources=[CAPTIONS]),
    bad(
        "filter without pairs",
        "spec.data.sources is empty",
        spec__label=REMOVE,
        spec__train=REMOVE,
        spec__evaluate=REMOVE,
        spec__data__sources=REMOVE,
    ),
    bad(
        "training without pairs",
        "spec.data.sources is empty",
        spec__filter=REMOVE,
        spec__label=REMOVE,
        spec__evaluate=REMOVE,
        spec__train__distillation={"mode": "Disabled"},
        spec__data__sources=[],
    ),
    good(
        "training on its own shards, no sources",
        spec__filter=REMOVE,
        spec__label=REMOVE,
        spec__evaluate=REMOVE,
        spec__train__distillation={"mode": "Disabled"},
        spec__train__shards=["s3://corpus/kept/{0..9}.tar"],
        spec__data__sources=REMOVE,
    ),
    bad("evaluation without a model", "evaluate needs a model", spec__train=REMOVE),
    good(
        "benchmarks of the split", spec__evaluate={"benchmarks": [{**CLASSES, "split": "HeldOut"}], "split": "HeldOut"}
    ),
    bad(
        "no benchmark of the split",
        "no benchmark has this split",
        spec__evaluate={"benchmarks": [{**CLASSES, "split": "HeldOut"}], "split": "Development"},
    ),
    bad(
        "a split, and no benchmark with one",
        "no benchmark has this split",
        spec__evaluate={"benchmarks": [CLASSES], "split": "Development"},
    ),
    bad("labels without a filter", "label reads the filter's scores: give filter", spec__filter=REMOVE),
    good(
        "the teacher's own classes beside sigmoids",
        spec__label={"teacher": {"ownClasses": True}, "heads": {"kind": "Sigmoid"}},
    ),
    bad("clip score without a threshold", "has minScore or keepShare", spec__filter={"clipScore": {"model": "m"}}),
    bad(
        "clip score with two thresholds",
        "has minScore or keepShare",
        spec__filter={"clipScore": {"model": "m", "minScore": 0, "keepShare": 1}},
    ),
    bad(
        "the teacher's own classes in a softmax",
        "ownClasses needs label.heads.kind Sigmoid",
        spec__label={"teacher": {"ownClasses": True}},
    ),
    good(
        "embeddings of both towers", spec__label={"teacher": CLIP_TEACHER}, spec__train__distillation={"embeddings": {}}
    ),
    good(
        "embeddings without concepts",
        spec__label={"teacher": CLIP_TEACHER},
        spec__train__distillation={"mode": "Disabled", "embeddings": {"weight": 2}},
    ),
    good(
        "embeddings of another run's labels",
        spec__label=REMOVE,
        spec__train__labels="s3://corpus/o/label/1",
        spec__train__distillation={"embeddings": {}},
    ),
    bad(
        "text embeddings of a network of images",
        "textEmbeddings needs a teacher of images and captions",
        spec__label={"teacher": {"textEmbeddings": True}},
    ),
    bad(
        "embeddings that no label stage makes",
        "give label.teacher.textEmbeddings: true",
        spec__train__distillation={"embeddings": {}},
    ),
    bad(
        "embeddings without labels",
        "give label.teacher.textEmbeddings: true",
        spec__label=REMOVE,
        spec__train__distillation={"mode": "Disabled", "embeddings": {}},
    ),
    bad(
        "embeddings of drawn captions",
        "does not go with train.captions Drawn",
        spec__label={"teacher": CLIP_TEACHER},
        spec__train__distillation={"embeddings": {}},
        spec__train__captions="Drawn",
    ),
    bad("concepts without labels", "needs labels: give label, or train.labels", spec__label=REMOVE),
    bad(
        "concepts by name without labels",
        "needs labels",
        spec__label=REMOVE,
        spec__train__distillation={"mode": "Concepts"},
    ),
    bad("no model", "give exactly one of model and modelConfig", spec__train__model=REMOVE),
    bad("two models", "give exactly one of model and modelConfig", spec__train__modelConfig={"embed_dim": 8}),
    bad(
        "batch of fewer pairs than processes",
        "must be at least 2 and numNodes x processesPerNode",
        spec__train__batchSize=8,
        spec__train__numNodes=9,
    ),
    bad(
        "default batch of fewer pairs than processes",
        "must be at least 2 and numNodes x processesPerNode",
        spec__train__batchSize=REMOVE,
        spec__train__numNodes=513,
        spec__train__processesPerNode=64,
    ),
    good("elastic training", spec__train__numNodes=4, spec__train__minNodes=1, spec__train__batchSize=8),
    good("elastic training that needs all", spec__train__minNodes=1),
    bad(
        "more nodes needed than wished for",
        "train.minNodes must be at most numNodes",
        spec__train__numNodes=4,
        spec__train__minNodes=5,
        spec__train__batchSize=8,
    ),
    bad("more nodes needed than by default", "train.minNodes must be at most numNodes", spec__train__minNodes=2),
    bad(
        "elastic training in a queue",
        "train.minNodes does not go with a queue of Kueue",
        spec__train__minNodes=1,
        spec__pods={"queueName": "q"},
    ),
    bad(
        "elastic training in a queue of its own",
        "train.minNodes does not go with a queue of Kueue",
        spec__train__minNodes=1,
        spec__train__pods={"queueName": "q", "queueing": "PerAttempt"},
        spec__pods={"queueing": "PerRun"},
    ),
    good(
        "elastic training in a queue that keeps its place",
        spec__train__minNodes=1,
        spec__train__pods={"queueing": "PerRun"},
        spec__pods={"queueName": "q"},
    ),
    good(
        "elastic training in a queue that keeps all places",
        spec__train__minNodes=1,
        spec__pods={"queueName": "q", "queueing": "PerRun"},
    ),
    bad(
        "elastic training in a topology",
        "train.minNodes does not go with pods.topology",
        spec__train__minNodes=1,
        spec__pods={"topology": {"required": "rack"}},
    ),
    bad(
        "elastic training in a topology of its own",
        "train.minNodes does not go with pods.topology",
        spec__train__minNodes=1,
        spec__train__pods={"topology": {"unconstrained": True}},
    ),
    good(
        "topology of another stage",
        spec__train__minNodes=1,
        spec__evaluate={"benchmarks": [{**CLASSES, "classNames": "n"}], "pods": {"topology": {"required": "rack"}}},
    ),
    bad("batch of 1 pair", "must be at least 2 and numNodes x processesPerNode", spec__train__batchSize=1),
    good("stable and decay", spec__train__samples=1000, spec__train__schedule={"type": "WSD", "warmupSamples": 800}),
    good("decay alone", spec__train__schedule={"type": "WSD", "decayShare": 1}),
    bad("decay share of a cosine", "decayShare is of type WSD alone", spec__train__schedule={"decayShare": 0.1}),
    bad(
        "decay share of a constant rate",
        "decayShare is of type WSD alone",
        spec__train__schedule={"type": "Constant", "decayShare": 0.1},
    ),
    bad(
        "warm-up into the decay",
        "warmupSamples reaches into the decay of WSD",
        spec__train__samples=1000,
        spec__train__schedule={"type": "WSD", "warmupSamples": 801},
    ),
    bad(
        "warm-up into the decay of its share",
        "warmupSamples reaches into the decay of WSD",
        spec__train__samples=1000,
        spec__train__schedule={"type": "WSD", "decayShare": 0.5, "warmupSamples": 501},
    ),
    good(
        "stages of the resolution",
        spec__train__samples=1000,
        spec__train__stages=[{"imageSize": 96, "samples": 600}, {"imageSize": 224, "samples": 400}],
    ),
    good(
        "stages of one size",
        spec__train__samples=1000,
        spec__train__stages=[{"imageSize": 96, "samples": 600}, {"imageSize": 96, "samples": 400}],
    ),
    good("no stages", spec__train__stages=[], spec__train__imageSize=96),
    bad(
        "stages of other samples",
        "train.stages must have train.samples in all",
        spec__train__samples=1000,
        spec__train__stages=[{"imageSize": 96, "samples": 600}],
    ),
    bad(
        "stages that fall",
        "must not fall in imageSize",
        spec__train__samples=1000,
        spec__train__stages=[{"imageSize": 224, "samples": 600}, {"imageSize": 96, "samples": 400}],
    ),
    bad(
        "stages and a size",
        "train.imageSize does not go with train.stages",
        spec__train__samples=1000,
        spec__train__imageSize=96,
        spec__train__stages=[{"imageSize": 96, "samples": 1000}],
    ),
    bad(
        "stages of a locked tower",
        "train.stages does not go with lockImageTower",
        spec__train__samples=1000,
        spec__train__lockImageTower=True,
        spec__train__stages=[{"imageSize": 96, "samples": 1000}],
    ),
    bad(
        "features of a tower that learns",
        "train.features Stored needs lockImageTower: true",
        spec__train__features="Stored",
    ),
    bad(
        "views of features that are computed", "train.featureViews needs features: Stored", spec__train__featureViews=2
    ),
    good(
        "views of stored features",
        spec__train__featureViews=2,
        spec__train__lockImageTower=True,
        spec__train__features="Stored",
    ),
    bad(
        "ridge start of features that are computed",
        "train.textStart Ridge needs lockImageTower: true and features: Stored",
        spec__train__textStart="Ridge",
        spec__train__lockImageTower=True,
    ),
    bad(
        "ridge start of a tower that learns",
        "train.textStart Ridge needs lockImageTower: true and features: Stored",
        spec__train__textStart="Ridge",
    ),
    good(
        "ridge start of stored features",
        spec__train__textStart="Ridge",
        spec__train__lockImageTower=True,
        spec__train__features="Stored",
    ),
    bad(
        "words without a ridge start",
        "train.words needs textStart: Ridge",
        spec__train__words="s3://corpus/words.safetensors",
    ),
    bad(
        "regression without words",
        "train.distillation.regression needs train.words and textStart: Ridge",
        spec__train__distillation__regression={},
        spec__train__textStart="Ridge",
        spec__train__lockImageTower=True,
        spec__train__features="Stored",
    ),
    good(
        "regression on words",
        spec__train__words="s3://corpus/words.safetensors",
        spec__train__distillation__regression={"weight": 50},
        spec__train__textStart="Ridge",
        spec__train__lockImageTower=True,
        spec__train__features="Stored",
    ),
    bad(
        "interpolation without held-out pairs",
        "train.interpolate needs train.validation",
        spec__train__interpolate=[0, 1],
    ),
    good(
        "interpolation by held-out pairs",
        spec__train__interpolate=[0, 0.5, 1],
        spec__train__validation={"shards": ["s3://corpus/held-out.tar"]},
    ),
    bad(
        "dropped patches of a locked tower",
        "train.patchDropout does not go with lockImageTower",
        spec__train__lockImageTower=True,
        spec__train__patchDropout=0.5,
    ),
    bad("parameters on the host with stage 1", "Parameters needs zeroStage 3", spec__train__offload="Parameters"),
    bad(
        "optimiser on the host with stage 0",
        "Optimizer needs zeroStage 1 or more",
        spec__train__offload="Optimizer",
        spec__train__zeroStage=0,
    ),
    good("classification with names beside the shards", spec__evaluate={"benchmarks": [CLASSES]}),
    good(
        "mount of a stage, volume of all stages",
        spec__pods={"volumes": [{"name": "x"}]},
        spec__train__pods={"volumeMounts": [{"name": "x", "mountPath": "/x"}]},
    ),
    good(
        "mount of all stages, volume of each stage",
        **{f"spec__{stage}__pods": {"volumes": [{"name": "x"}]} for stage in STAGES},
        spec__pods={"volumeMounts": [{"name": "x", "mountPath": "/x"}]},
    ),
    bad(
        "value and reference",
        "give value or valueFrom, not both",
        spec__pods__env=[{"name": "A", "value": "", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    ),
    good(
        "root on purpose",
        spec__pods__securityContext={"runAsUser": 0, "runAsNonRoot": False, "capabilities": {"add": ["IPC_LOCK"]}},
        spec__train__pods__podSecurityContext={"runAsUser": 0, "runAsNonRoot": False},
    ),
    good(
        "whole topology",
        spec__pods__topology={
            "required": "example.org/rack",
            "sliceRequired": "kubernetes.io/hostname",
            "sliceSize": 2,
        },
    ),
    bad(
        "two topologies",
        "give one of required, preferred and unconstrained",
        spec__pods__topology={"required": "a", "preferred": "b"},
    ),
    bad(
        "half of a slice",
        "give sliceRequired and sliceSize together",
        spec__train__pods={"topology": {"preferred": "a", "sliceSize": 2}},
    ),
    bad(
        "value and reference in a stage",
        "give value or valueFrom, not both",
        spec__train__pods={
            "env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
        },
    ),
]

YAML = [
    reads("number with an exponent", TRAIN % "samples: 1e3, optimizer: {lr: 5e-4, eps: 1.0e-6}"),
    reads("integer with a point", TRAIN % "samples: 1000.0, loss: {beta: 1.0}"),
    reads("integer with underscores, octal, hexadecimal", "  seed: 0x10\n" + TRAIN % "samples: 1_000, numNodes: 02"),
    reads("old booleans", "  suspend: off\n" + TRAIN % "samples: 5, compile: yes, lockImageTower: n"),
    reads("date as text", "  pods: {labels: {day: 2026-11-25}}\n" + TRAIN % "samples: 5"),
    reads(
        "anchors and merges",
        "  pods: {labels: &l {a: b}, nodeSelector: *l}\n  filter: {pods: {labels: {<<: *l, c: d}}}",
    ),
    reads("stage without content below it", "  label:\n  filter: {}"),
    reads("null in a map", "  pods: {labels: {a: null}, annotations: {a: }, resources: {cpu: ~}}\n  filter: {}"),
    reads("number as name of a key", "  pods: {annotations: {1: x, yes: z}}\n  filter: {}"),
    refuses("quoted number", TRAIN % "samples: '1e3'", "spec.train.samples"),
    refuses("infinity", TRAIN % "samples: 5, optimizer: {lr: .inf}"),
    refuses("not a number", TRAIN % "samples: 5, optimizer: {lr: .nan}"),
    refuses("bare off for a mode", "  filter: {textSpotting: {mode: off}}", "spec.filter.textSpotting.mode"),
    refuses("key twice", "  filter: {}\n  filter: {minActions: 0}", "filter"),
    refuses("boolean as label", "  pods: {labels: {a: yes}}\n  filter: {}", "labels"),
    refuses("tab before a key", "\tfilter: {}"),
    Case("list", "[]", good=False),
    Case("text", "run", good=False),
    Case("bracket that stays open", "a: [", good=False),
]

CASES: list[Case] = [*RULES, *YAML]
