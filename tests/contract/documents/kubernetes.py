"""Kubernetes' own objects below `spec.pods`: what its API server takes and refuses in them, file and CRD take and refuse, too."""

from __future__ import annotations

from typing import Any

from tests.contract.documents import Case, bad, good

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def volume(**source: Any) -> dict[str, Any]:
    return {"spec__pods__volumes": [{"name": "v", **source}]}


def mount(**more: Any) -> dict[str, Any]:
    return {"spec__pods": {"volumes": [{"name": "v"}], "volumeMounts": [{"name": "v", "mountPath": "/v", **more}]}}


def toleration(**given: Any) -> dict[str, Any]:
    return {"spec__pods__tolerations": [given]}


def variable(**source: Any) -> dict[str, Any]:
    return {"spec__train__pods": {"env": [{"name": "A", "valueFrom": source}]}}


def node(**term: Any) -> dict[str, Any]:
    return {"spec__pods__affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [term]}}}}


def near(**term: Any) -> dict[str, Any]:
    return {"spec__pods__affinity": {"podAffinity": {REQUIRED: [{"topologyKey": "zone", **term}]}}}


def projected(*sources: dict[str, Any]) -> dict[str, Any]:
    return volume(projected={"sources": list(sources)})


def claim(**spec: Any) -> dict[str, Any]:
    whole = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, **spec}
    return volume(ephemeral={"volumeClaimTemplate": {"spec": whole}})


def container(**context: Any) -> dict[str, Any]:
    return {"spec__pods__securityContext": context}


def pod(**context: Any) -> dict[str, Any]:
    return {"spec__train__pods__podSecurityContext": context}


CASES: list[Case] = [
    good("whole number of bytes for a memory volume", **volume(emptyDir={"sizeLimit": 107374182400})),
    good("divisor that is a number", **variable(resourceFieldRef={"resource": "limits.memory", "divisor": 1})),
    good("null in an object of Kubernetes", **volume(emptyDir={"medium": None}, nfs=None)),
    good("disk of a cloud", **volume(awsElasticBlockStore={"volumeID": "vol-1", "partition": 0})),
    good("iSCSI", **volume(iscsi={"targetPortal": "10.0.0.1:3260", "iqn": "iqn.2001-04.org.example:disk1", "lun": 0})),
    good("fibre channel", **volume(fc={"targetWWNs": ["50060e801049cfd1"], "lun": 0})),
    good(
        "every kind of projected source",
        **projected(
            {"secret": {"name": "s", "items": [{"key": "k", "path": "a/k"}]}},
            {"configMap": {"name": "c"}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 600, "audience": "s3"}},
            {"clusterTrustBundle": {"name": "ca", "path": "ca.pem"}},
            {
                "podCertificate": {
                    "signerName": "example.org/ca",
                    "keyType": "ED25519",
                    "credentialBundlePath": "bundle.pem",
                }
            },
        ),
    ),
    good("taint of any effect", **toleration(key="gpu", operator="", effect="")),
    good("label of the pod in a variable", **variable(fieldRef={"fieldPath": "metadata.labels['example.org/team']"})),
    good("key of a file in a variable", **variable(fileKeyRef={"volumeName": "tmp", "path": "env", "key": "A"})),
    good("dots in the name of a file", **mount(subPath="a/..b/.c")),
    good(
        "keys of labels that tell pods apart",
        **near(labelSelector={}, matchLabelKeys=["a"], mismatchLabelKeys=["example.org/b"]),
    ),
    bad("unknown kind of volume", "unknown", **volume(futureSource={"x": [1]})),
    bad(
        "unknown key of a volume",
        "unknown",
        "did you mean sizeLimit? (Kubernetes 1.37)",
        **volume(emptyDir={"sizeLimt": "1Gi"}),
    ),
    bad(
        "key of a claim's volume in an NFS volume",
        "unknown",
        **volume(nfs={"server": "s", "path": "/", "mountOptions": ["ro"]}),
    ),
    bad("unknown key of an affinity", "unknown", **node(matchLabels={})),
    bad("unknown key of a security context", "unknown", **container(capability={})),
    bad("volume that Kubernetes no longer mounts", only_file="use a CSI driver", **volume(cephfs={"monitors": ["m"]})),
    bad("context of Windows", only_file="Linux only", **container(windowsOptions={"hostProcess": False})),
    bad("number beyond 32 bits", "partition", **volume(gcePersistentDisk={"pdName": "p", "partition": 2**31})),
    bad(
        "mode beyond 0777",
        "mode",
        **volume(secret={"secretName": "s", "items": [{"key": "k", "path": "p", "mode": 512}]}),
    ),
    bad("secret volume without a name", "secretName", **volume(secret={})),
    bad("name of a secret with capitals", "name", **variable(secretKeyRef={"name": "Keys", "key": "k"})),
    bad("key of a secret with a slash", "key", **variable(secretKeyRef={"name": "s", "key": "a/b"})),
    bad("claim template without a spec", "volumeClaimTemplate", **volume(ephemeral={})),
    bad(
        "file outside of its volume", "path", **volume(configMap={"name": "c", "items": [{"key": "k", "path": "../p"}]})
    ),
    bad("host path with a parent folder", "path", **volume(hostPath={"path": "/a/../b"})),
    bad("relative NFS path", "path", **volume(nfs={"server": "s", "path": "export"})),
    bad("mount below the volume's parent", "subPath", **mount(subPath="a/../../b")),
    bad("two sub-paths", "subPath and subPathExpr exclude each other", **mount(subPath="a", subPathExpr="b")),
    bad(
        "recursively read-only and writable",
        "recursiveReadOnly needs readOnly: true",
        **mount(recursiveReadOnly="Enabled"),
    ),
    bad("taint without key", "needs operator: Exists", **toleration(effect="NoSchedule")),
    bad(
        "seconds of a taint that evicts nobody",
        "tolerationSeconds needs effect: NoExecute",
        **toleration(key="gpu", tolerationSeconds=60),
    ),
    bad(
        "value of a taint that only exists",
        "operator: Exists takes no value",
        **toleration(key="gpu", operator="Exists", value="a"),
    ),
    bad("taint by comparison", "operator", **toleration(key="gpu", operator="Gt", value="1")),
    bad("key of a taint with a space", "key", **toleration(key="a b", operator="Exists")),
    bad("no values of a label", "In and NotIn need values", **node(matchExpressions=[{"key": "a", "operator": "In"}])),
    bad(
        "values of a label that only exists",
        "Exists and DoesNotExist take none",
        **near(labelSelector={"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}),
    ),
    bad(
        "two values to compare with",
        "Gt and Lt take one",
        **node(matchExpressions=[{"key": "a", "operator": "Gt", "values": ["1", "2"]}]),
    ),
    bad(
        "field of a node that is not its name",
        "matchFields knows metadata.name only",
        **node(matchFields=[{"key": "metadata.uid", "operator": "In", "values": ["a"]}]),
    ),
    bad("field of a pod that no variable tells", "fieldPath", **variable(fieldRef={"fieldPath": "status.phase"})),
    bad(
        "key of a file that is no variable",
        "fileKeyRef.key",
        **variable(fileKeyRef={"volumeName": "tmp", "path": "p", "key": "ä"}),
    ),
    bad(
        "all labels in one variable",
        "a variable takes one label",
        **variable(fieldRef={"fieldPath": "metadata.labels"}),
    ),
    bad(
        "node's name in a file",
        "files tell metadata of the pod only",
        **volume(downwardAPI={"items": [{"path": "p", "fieldRef": {"fieldPath": "spec.nodeName"}}]}),
    ),
    bad(
        "file of nothing",
        "give exactly one of fieldRef, resourceFieldRef",
        **volume(downwardAPI={"items": [{"path": "p"}]}),
    ),
    bad(
        "resource of no container",
        "resourceFieldRef of a file needs containerName",
        **volume(downwardAPI={"items": [{"path": "p", "resourceFieldRef": {"resource": "limits.cpu"}}]}),
    ),
    bad("resource that no variable tells", "resource", **variable(resourceFieldRef={"resource": "cpu"})),
    bad(
        "two kinds in one projected source",
        "each of sources has one kind",
        **projected({"secret": {"name": "s"}, "configMap": {"name": "c"}}),
    ),
    bad(
        "token that lives a minute",
        "expirationSeconds",
        **projected({"serviceAccountToken": {"path": "t", "expirationSeconds": 60}}),
    ),
    bad(
        "trust bundle of nobody",
        "give exactly one of name, signerName",
        **projected({"clusterTrustBundle": {"path": "p"}}),
    ),
    bad(
        "labels of one trust bundle",
        "labelSelector chooses among the bundles of a signer",
        **projected({"clusterTrustBundle": {"name": "ca", "path": "p", "labelSelector": {}}}),
    ),
    bad(
        "certificate without a file",
        "give at least one of credentialBundlePath",
        **projected({"podCertificate": {"signerName": "example.org/ca", "keyType": "ED25519"}}),
    ),
    bad("claim without a mode", "accessModes", **claim(accessModes=[])),
    bad(
        "claim of one pod and of many",
        "ReadWriteOncePod excludes other access modes",
        **claim(accessModes=["ReadWriteOncePod", "ReadOnlyMany"]),
    ),
    bad(
        "claim of two sources",
        "give one",
        **claim(
            dataSource={"kind": "PersistentVolumeClaim", "name": "a"},
            dataSourceRef={"kind": "PersistentVolumeClaim", "name": "a"},
        ),
    ),
    bad(
        "claim of a source without a group",
        "without apiGroup the kind is PersistentVolumeClaim",
        **claim(dataSource={"kind": "VolumeSnapshot", "name": "a"}),
    ),
    bad(
        "managed Azure disk by a blob's address",
        "diskURI begins with /subscriptions/",
        **volume(azureDisk={"diskName": "d", "kind": "Managed", "diskURI": "https://a/b"}),
    ),
    bad(
        "fibre channel of two kinds",
        "give one of targetWWNs and wwids",
        **volume(fc={"targetWWNs": ["a"], "wwids": ["b"], "lun": 1}),
    ),
    bad("fibre channel without unit", "targetWWNs needs lun", **volume(fc={"targetWWNs": ["a"]})),
    bad(
        "iSCSI with authentication by nothing",
        "need secretRef",
        **volume(iscsi={"targetPortal": "p", "iqn": "iqn.2001-04.org.example:d", "lun": 0, "chapAuthSession": True}),
    ),
    bad(
        "seccomp profile of a file without its name",
        "seccomp profile of type Localhost needs localhostProfile",
        **pod(seccompProfile={"type": "Localhost"}),
    ),
    bad(
        "name of an AppArmor profile that has none",
        "AppArmor profile of type Localhost needs localhostProfile",
        **container(appArmorProfile={"type": "RuntimeDefault", "localhostProfile": "p"}),
    ),
    bad("unmasked /proc", "procMount: Unmasked needs a user namespace", **container(procMount="Unmasked")),
    bad("image with a space", "image", spec__pods={"image": "recipe: 1"}),
    bad("service account with capitals", "serviceAccountName", spec__pods={"serviceAccountName": "Trainer"}),
    bad("queue that is no label", "queueName", spec__pods={"queueName": "team/research"}),
    bad(
        "storage secret with capitals",
        "secretRef",
        spec__storage=[{"prefix": "s3://aaa", "secretRef": {"name": "Keys"}}],
    ),
]
