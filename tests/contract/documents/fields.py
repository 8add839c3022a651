"""One field at a time: types, bounds, patterns, sizes, unknown keys."""

from __future__ import annotations

from typing import Any

from tests.contract.documents import Case, bad, good
from tests.unit.api.documents import REMOVE

URI = "s3://corpus/" + "a" * 1012


def benchmark(**changes: Any) -> dict[str, Any]:
    return {"name": "b", "type": "Retrieval", "shards": ["x.tar"], **changes}


VOLUMES: list[dict[str, Any]] = [
    {"name": "empty", "emptyDir": {}},
    {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
    {"name": "host", "hostPath": {"path": "/data", "type": "Directory"}},
    {"name": "claim", "persistentVolumeClaim": {"claimName": "data", "readOnly": True}},
    {
        "name": "secret",
        "secret": {"secretName": "s", "items": [{"key": "k", "path": "p", "mode": 256}], "optional": True},
    },
    {"name": "config", "configMap": {"name": "c", "defaultMode": 420}},
    {"name": "nfs", "nfs": {"server": "nfs.example.org", "path": "/export"}},
    {"name": "csi", "csi": {"driver": "d.example.org", "volumeAttributes": {"a": "b"}}},
    {"name": "projected", "projected": {"sources": [{"secret": {"name": "s"}}]}},
    {
        "name": "ephemeral",
        "ephemeral": {
            "volumeClaimTemplate": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Gi"}}},
            }
        },
    },
    {"name": "image", "image": {"reference": "model:1"}},
    {"name": "none"},
]
SELECTOR = {"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}
NEAR = {"topologyKey": "zone", "labelSelector": SELECTOR, "namespaceSelector": {}, "namespaces": ["n"]}
AFFINITY: dict[str, Any] = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "Gt", "values": ["1"]}]}]
        },
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {"matchFields": []}}],
    },
    "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [NEAR]},
    "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": NEAR}]},
}
REFERENCES: list[dict[str, Any]] = [
    {"secretKeyRef": {"name": "s", "key": "k", "optional": True}},
    {"configMapKeyRef": {"name": "c", "key": "k"}},
    {"fieldRef": {"fieldPath": "metadata.name"}},
    {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}},
    {"resourceFieldRef": {"resource": "limits.cpu", "divisor": 1}},
]
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def sources(count: int) -> list[dict[str, Any]]:
    return [{"name": f"s{index}", "shards": ["x.tar"]} for index in range(count)]


GOOD = [
    good("minimal"),
    good("name of 40 characters", metadata__name="a" * 40),
    good("labels and annotations in metadata", metadata__labels={"team": "x"}, metadata__annotations={"note": "y"}),
    good("URI of 1024 characters", spec__data__output=URI),
    good("URI of 1024 characters that are not ASCII", spec__data__output="s3://corpus/" + "é" * 1012),
    good("file URI", spec__data__output="file:///data/runs"),
    good("plain path with spaces", spec__data__output="runs/my run"),
    good("64 sources", spec__data__sources=sources(64)),
    good("256 shards", spec__data__sources=[{"name": "a", "shards": ["x.tar"] * 256}]),
    good("weights", spec__data__sources=[{"name": "a", "shards": ["x"], "weight": 1e6, "filter": False}]),
    good(
        "S3 elsewhere", spec__storage=[{"prefix": "s3://corpus", "endpointURL": "http://10.0.0.1:8333", "region": "x"}]
    ),
    good(
        "Google's and Azure's stores",
        spec__data__output="gs://corpus_1/run",
        spec__storage=[
            {"prefix": "gs://corpus_1", "secretRef": {"name": "keys"}},
            {"prefix": "az://corpus", "endpointURL": "https://x.blob.core.windows.net"},
        ],
    ),
    good("secret by reference", spec__storage=[{"prefix": "s3://corpus", "secretRef": {"name": "keys"}}]),
    good("every mode of text spotting off", spec__filter__textSpotting={"mode": "Disabled"}),
    good("clip score of a model on S3", spec__filter={"clipScore": {"model": "s3://models/clip", "minScore": 0.28}}),
    good(
        "clip score of a named architecture",
        spec__filter={"clipScore": {"model": "m.pt", "architecture": "ViT-B-32", "minScore": -1}},
    ),
    good("best share by clip score", spec__filter={"clipScore": {"model": "m.pt", "keepShare": 0.3}}),
    good("zero thresholds", spec__filter={"minComplexity": 0, "minActions": 0, "maxBadPercent": 0}),
    good("largest count", spec__train__samples=2**62),
    good("beta of 16", spec__train__loss={"alpha": 0, "beta": 16}),
    good("integer where a number is asked for", spec__train__loss={"beta": 1}),
    good(
        "open model configuration",
        spec__train__model=REMOVE,
        spec__train__modelConfig={"embed_dim": 64, "x": {"y": [1, None]}},
    ),
    good("share of bad shards", spec__data__maxBadShards="1.5%"),
    good("number of bad shards", spec__data__maxBadShards=100),
    good(
        "quantities",
        spec__pods__resources={
            "cpu": "500m",
            "memory": "64Gi",
            "nvidia.com/gpu": 8,
            "hugepages-2Mi": "4Mi",
            "ephemeral-storage": "1e3",
        },
    ),
    good("tolerations", spec__train__pods={"tolerations": [{"key": "gpu", "operator": "Exists"}] * 64}),
    good(
        "volumes",
        spec__pods={
            "volumes": VOLUMES,
            "volumeMounts": [
                *({"name": each["name"], "mountPath": f"/{each['name']}", "readOnly": True} for each in VOLUMES),
                {"name": "dshm", "mountPath": "/shm"},
            ],
        },
    ),
    good("affinity in full", spec__train__pods__affinity=AFFINITY),
    good(
        "toleration in full",
        spec__pods__tolerations=[
            {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 60}
        ],
    ),
    good(
        "security of the container in full",
        spec__pods__securityContext={
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "procMount": "Default",
            "runAsUser": 2000,
            "runAsGroup": 2000,
            "runAsNonRoot": True,
            "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
            "seccompProfile": {"type": "Localhost", "localhostProfile": "p.json"},
            "appArmorProfile": {"type": "RuntimeDefault"},
            "seLinuxOptions": {"level": "s0"},
        },
    ),
    good(
        "security of the pod in full",
        spec__train__pods__podSecurityContext={
            "fsGroup": 7,
            "fsGroupChangePolicy": "Always",
            "supplementalGroups": [44, 109],
            "sysctls": [{"name": "net.core.somaxconn", "value": "1024"}],
            "runAsUser": 7,
        },
    ),
    good(
        "fabric",
        spec__train__pods={"hostNetwork": True, "resources": {"rdma/hca": 1, "vpc.amazonaws.com/efa": 4}},
        spec__train__minBusBandwidth=100,
    ),
    good(
        "references",
        spec__pods__env=[{"name": f"V{index}", "valueFrom": each} for index, each in enumerate(REFERENCES)],
    ),
    good("variable without value", spec__pods__env=[{"name": "A"}]),
    good(
        "environment",
        spec__pods__env=[
            {"name": "A", "value": ""},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        ],
    ),
    good("label values", spec__pods__labels={"a": "", "b": "x" * 63, "c": "A_b.c-d"}),
    good("long annotation", spec__pods__annotations={"a": "b c\n" * 1024}),
    good("deadline and TTL", spec__activeDeadlineSeconds=1, spec__ttlSecondsAfterFinished=0),
    good(
        "failure policy",
        spec__failurePolicy={"maxRestarts": 0, "maxInfrastructureRestarts": 0, "schedulingTimeoutSeconds": 10},
    ),
    good(
        "globs with a question mark",
        spec__data__sources=[{"name": "a", "shards": ["s3://corpus/day=1/0?.tar", "web/0?.tar"]}],
    ),
    good(
        "whole numbers where Kubernetes takes quantities",
        spec__pods__volumes=[{"name": "v", "emptyDir": {"sizeLimit": 107374182400}}],
        spec__pods__resources={"hugepages-2Mi": 4194304, "cpu": 1},
    ),
    good(
        "null in an object of Kubernetes",
        spec__pods__volumes=[{"name": "v", "emptyDir": {"medium": None}, "nfs": None}],
    ),
    good("few-shot", spec__evaluate__fewShot={"shots": [1], "seeds": 1}),
    good("null is absent", spec__seed=None, spec__pods=None, spec__storage=None, spec__train__optimizer={"lr": None}),
    good("null metadata field", metadata={"name": "a-run", "labels": None}),
]

BAD = [
    bad("unknown stage", "unknown", spec__trian={}),
    bad("unknown field", "unknown", "did you mean minComplexity?", spec__filter={"minComplexty": 1}),
    bad(
        "unknown field, wrong case",
        "unknown",
        "did you mean endpointURL?",
        spec__storage=[{"prefix": "s3://aaa", "endpointUrl": "http://x"}],
    ),
    bad("unknown metadata field", only_file="label is not a field", metadata={"name": "a", "label": {}}),
    bad("unknown field in pods", "unknown", spec__pods={"imgae": "x"}),
    bad("unknown field at the root", "unknown", specs={}),
    bad("other API version", apiVersion="diht.dev/v2"),
    bad("other kind", kind="Diht"),
    bad("no API version", apiVersion=REMOVE),
    bad("no kind", kind=REMOVE),
    bad("no name", metadata__name=REMOVE),
    bad("no spec", "spec", spec=REMOVE),
    bad("spec is null", "spec", spec=None),
    bad("spec is a list", "spec", spec=[]),
    bad("capitals in the name", metadata__name="A-Run"),
    bad("name of 41 characters", "at most 40 characters", metadata__name="a" * 41),
    bad("name that begins with a digit", "metadata.name", metadata__name="1a"),
    bad("name with a dot", "metadata.name", metadata__name="a.b"),
    bad("no data", "spec.data", spec__data=REMOVE),
    bad("no sources", "spec.data.sources", spec__data__sources=[]),
    bad("65 sources", "spec.data.sources", spec__data__sources=sources(65)),
    bad("negative number of bad shards", "maxBadShards", spec__data__maxBadShards=-1),
    bad("share of bad shards above 100", "maxBadShards", "write for example 10 or 1%", spec__data__maxBadShards="101%"),
    bad("share of bad shards without a sign", "maxBadShards", spec__data__maxBadShards="10"),
    bad("fraction of bad shards", "maxBadShards", spec__data__maxBadShards=0.5),
    bad("no shards", "shards", spec__data__sources=[{"name": "a", "shards": []}]),
    bad("257 shards", "shards", spec__data__sources=[{"name": "a", "shards": ["x.tar"] * 257}]),
    bad("shards is text", "shards", spec__data__sources=[{"name": "a", "shards": "x.tar"}]),
    bad("null among shards", "shards", spec__data__sources=[{"name": "a", "shards": [None]}]),
    bad("null among sources", "sources", spec__data__sources=[None]),
    bad("null among tolerations", "tolerations", spec__pods__tolerations=[None]),
    bad("two sources of one name", "spec.data.sources", spec__data__sources=[{"name": "a", "shards": ["x"]}] * 2),
    bad("source name of 41 characters", "name", spec__data__sources=[{"name": "a" * 41, "shards": ["x"]}]),
    bad("weight of zero", "weight", spec__data__sources=[{"name": "a", "shards": ["x"], "weight": 0}]),
    bad("weight above a million", "weight", spec__data__sources=[{"name": "a", "shards": ["x"], "weight": 1000001}]),
    bad("URI of 1025 characters", "spec.data.output", spec__data__output=URI + "a"),
    bad("empty URI", "spec.data.output", spec__data__output=""),
    bad("pipe URI", "spec.data.output", spec__data__output="pipe:cat"),
    bad("http URI", "spec.data.output", spec__data__output="http://x/y"),
    bad("URI like an option", "spec.data.output", spec__data__output="-rf"),
    bad("URI with a semicolon", "spec.data.output", spec__data__output="s3://bucket/;rm"),
    bad("container with a name of another store", "spec.data.output", spec__data__output="az://corpus_1/run"),
    bad("URI with a dollar sign", "spec.data.output", spec__data__output="s3://bucket/$HOME"),
    bad("URI with a line break", "spec.data.output", spec__data__output="out\n"),
    bad("endpoint of another scheme", "endpointURL", spec__storage=[{"prefix": "s3://aaa", "endpointURL": "ftp://x"}]),
    bad("two rules for one prefix", "spec.storage", spec__storage=[{"prefix": "s3://aaa"}] * 2),
    bad("secret without a name", "name", spec__storage=[{"prefix": "s3://aaa", "secretRef": {}}]),
    bad("secret inline", "unknown", spec__storage=[{"prefix": "s3://aaa", "secretKey": "x"}]),
    bad("text for a number", "spec.train.samples", spec__train__samples="5"),
    bad("fraction for an integer", "spec.train.samples", spec__train__samples=1.5),
    bad("boolean for an integer", "spec.train.numNodes", spec__train__numNodes=True),
    bad("integer for a boolean", "spec.suspend", spec__suspend=1),
    bad("number for text", "spec.train.model", spec__train__model=5),
    bad("zero samples", "spec.train.samples", spec__train__samples=0),
    bad("too many samples", "spec.train.samples", spec__train__samples=2**63),
    bad("negative seed", "spec.seed", spec__seed=-1),
    bad("seed beyond 32 bits", "spec.seed", spec__seed=2**31),
    bad("alpha above 1", "spec.train.loss.alpha", spec__train__loss={"alpha": 1.5}),
    bad("learning rate of zero", "spec.train.optimizer.lr", spec__train__optimizer={"lr": 0}),
    bad("zero stage 4", "spec.train.zeroStage", spec__train__zeroStage=4),
    bad("unknown precision", "spec.train.precision", "did you mean bf16?", spec__train__precision="bf61"),
    bad("mode as boolean", "spec.filter.textSpotting.mode", spec__filter={"textSpotting": {"mode": False}}),
    bad("confidence below the floor", "minConfidence", spec__filter={"textSpotting": {"minConfidence": 0.2}}),
    bad("language that is not there", "spec.filter.language", spec__filter={"language": "fr"}),
    bad(
        "clip score above 1",
        "spec.filter.clipScore.minScore",
        spec__filter={"clipScore": {"model": "m", "minScore": 1.1}},
    ),
    bad("share of zero", "spec.filter.clipScore.keepShare", spec__filter={"clipScore": {"model": "m", "keepShare": 0}}),
    bad("clip score without a model", "model", spec__filter={"clipScore": {"minScore": 0.2}}),
    bad(
        "clip model behind another scheme",
        "spec.filter.clipScore.model",
        spec__filter={"clipScore": {"model": "https://x/m", "minScore": 0}},
    ),
    bad("65 benchmarks to keep away from", "decontaminate", spec__filter={"decontaminate": ["x"] * 65}),
    bad("model as object", "spec.train.model", spec__train__model={"name": "x"}),
    bad(
        "model configuration of 65 keys",
        "modelConfig",
        spec__train__model=REMOVE,
        spec__train__modelConfig={f"k{i}": 1 for i in range(65)},
    ),
    bad("benchmark without type", "type", spec__evaluate={"benchmarks": [{"name": "x", "shards": ["a"]}]}),
    bad(
        "two benchmarks of one name",
        "spec.evaluate.benchmarks",
        spec__evaluate={"benchmarks": [benchmark(), benchmark()]},
    ),
    bad("few-shot without shots", "shots", spec__evaluate__fewShot={"shots": []}),
    bad("quantity with a space", "resources", spec__pods__resources={"memory": "64 GB"}),
    bad("negative quantity", "resources", spec__pods__resources={"nvidia.com/gpu": -1}),
    bad("fraction as quantity", "resources", spec__pods__resources={"cpu": 1.5}),
    bad("shm size without unit name", "shmSize", spec__pods__shmSize="8 gigabytes"),
    bad("label value of 64 characters", "labels", spec__pods__labels={"a": "x" * 64}),
    bad("label value with a space", "labels", spec__pods__labels={"a": "b c"}),
    bad("label value that is a number", "labels", spec__pods__labels={"a": 1}),
    bad("environment variable with a dash", "env", spec__pods__env=[{"name": "a-b", "value": "x"}]),
    bad("environment variable twice", "spec.pods.env", spec__pods__env=[{"name": "A", "value": "x"}] * 2),
    bad("affinity is text", "spec.pods.affinity", spec__pods__affinity="near"),
    bad("toleration is text", "tolerations", spec__pods__tolerations=["gpu"]),
    bad("host network that is text", "hostNetwork", spec__pods__hostNetwork="yes"),
    bad("bandwidth of zero", "minBusBandwidth", spec__train__minBusBandwidth=0),
    bad("mount without name", "name", spec__pods__volumeMounts=[{"mountPath": "/x"}]),
    bad("mount whose name is a mapping", "name", spec__pods__volumeMounts=[{"name": {"a": "b"}, "mountPath": "/x"}]),
    bad("volume without name", "name", spec__pods__volumes=[{"emptyDir": {}}]),
    bad("volume whose name is a mapping", "name", spec__pods__volumes=[{"name": {"a": "b"}, "emptyDir": {}}]),
    bad("two volumes of one name", "spec.pods.volumes", spec__pods__volumes=[{"name": "x"}] * 2),
    bad("node selector of numbers", "nodeSelector", spec__pods__nodeSelector={"a": 1}),
    bad("URI with credentials", "spec.data.output", spec__data__output="s3://key:secret@bucket/x"),
    bad("URI with a signature", "spec.data.output", spec__data__output="s3://bucket/x?X-Amz-Signature=abc"),
    bad("path with a signature", "shards", spec__data__sources=[{"name": "a", "shards": ["web/x.tar?sig=abc"]}]),
    bad(
        "endpoint with credentials",
        "endpointURL",
        spec__storage=[{"prefix": "s3://aaa", "endpointURL": "https://key:secret@s3.example.org"}],
    ),
    bad(
        "endpoint with a query",
        "endpointURL",
        spec__storage=[{"prefix": "s3://aaa", "endpointURL": "https://s3.example.org/?token=abc"}],
    ),
    bad("grace period below 30 s", "terminationGracePeriodSeconds", spec__pods__terminationGracePeriodSeconds=5),
    bad("deadline of zero", "activeDeadlineSeconds", spec__activeDeadlineSeconds=0),
    bad("negative restarts", "maxRestarts", spec__failurePolicy={"maxRestarts": -1}),
]

OPEN = [
    bad("unknown kind of volume", "unknown", spec__pods__volumes=[{"name": "v", "futureSource": {"x": [1]}}]),
    bad(
        "unknown key of a volume",
        "unknown",
        "did you mean sizeLimit? (Kubernetes 1.37)",
        spec__pods__volumes=[{"name": "v", "emptyDir": {"sizeLimt": "1Gi"}}],
    ),
    bad("unknown key of a security context", "unknown", spec__train__pods__securityContext={"capability": {}}),
    bad("volume that Kubernetes no longer mounts", "unknown", spec__pods__volumes=[{"name": "v", "cephfs": {}}]),
    bad("capabilities as a list", "capabilities", spec__pods__securityContext={"capabilities": ["IPC_LOCK"]}),
    bad("sysctl without a value", "sysctls", spec__pods__podSecurityContext={"sysctls": [{"name": "kernel.shmmax"}]}),
    bad("mount without path", "mountPath", spec__pods={"volumes": [{"name": "x"}], "volumeMounts": [{"name": "x"}]}),
    bad(
        "text for a boolean of a mount",
        "readOnly",
        spec__pods={"volumes": [{"name": "x"}], "volumeMounts": [{"name": "x", "mountPath": "/a", "readOnly": "yes"}]},
    ),
    bad("claim without name", "claimName", spec__pods__volumes=[{"name": "x", "persistentVolumeClaim": {}}]),
    bad(
        "source that is text",
        "persistentVolumeClaim",
        spec__pods__volumes=[{"name": "x", "persistentVolumeClaim": "data"}],
    ),
    bad(
        "quantity of a memory volume",
        "sizeLimit",
        spec__pods__volumes=[{"name": "x", "emptyDir": {"sizeLimit": "8 GB"}}],
    ),
    bad(
        "attribute of a CSI volume that is a number",
        "volumeAttributes",
        spec__pods__volumes=[{"name": "x", "csi": {"driver": "d", "volumeAttributes": {"a": 1}}}],
    ),
    bad("node terms as a list", REQUIRED, spec__pods__affinity={"nodeAffinity": {REQUIRED: []}}),
    bad(
        "root by accident",
        "runAsUser 0 is root, which needs runAsNonRoot: false",
        spec__pods__securityContext={"runAsUser": 0},
    ),
    bad(
        "root by accident in the pod of a stage",
        "runAsUser 0 is root, which needs runAsNonRoot: false",
        spec__train__pods__podSecurityContext={"runAsUser": 0, "runAsNonRoot": True},
    ),
    bad(
        "mount of a volume that no stage has",
        "volumeMounts names a volume that pods.volumes lacks",
        spec__pods={"volumeMounts": [{"name": "x", "mountPath": "/x"}]},
    ),
]
"""What a file refuses in objects of Kubernetes, which the CRD leaves open."""

CASES: list[Case] = [*GOOD, *BAD]
