"""Rules of Kubernetes over several fields of one of its objects, each in Python and, where it is short, in CEL. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.api.kubernetes_types.definitions import definitions
from diht_k8s.api.kubernetes_types.field_bounds import DNS_NAME
from diht_k8s.api.kubernetes_types.quantities import number_of

Object = Mapping[str, Any]

TOO_MANY_SOURCES: Final = "a volume has one source: give only one"
ONE_REFERENCE: Final = "valueFrom needs exactly one reference: give only one"
CAPABILITY_PREFIX: Final = "capabilities are named without CAP_: give for example IPC_LOCK"
ROOT_NEEDS_CONSENT: Final = "runAsUser 0 is root, which needs runAsNonRoot: false beside it"
PRIVILEGED_ESCALATES: Final = "privileged and allowPrivilegeEscalation: false exclude each other: change one"
SOURCES: Final = tuple(name for name in definitions().types["Volume"]["fields"] if name != "name")
"""What a volume may be."""
REFERENCES: Final = tuple(definitions().types["EnvVarSource"]["fields"])
"""What a variable's value may come from."""


@dataclass(frozen=True)
class ObjectRule:
    """One rule of a type."""

    holds: Callable[[Object], bool]
    """of an object without nulls whose fields are all valid."""
    message: str
    """what is wrong and what to do."""
    cel: str = ""
    """the same in the CRD; empty: Python alone says it."""


def _count(names: Iterable[str]) -> str:
    """How many of the fields an object has, in CEL."""
    return f"[{', '.join(f'has(self.{name})' for name in names)}].filter(given, given).size()"


def _profile(kind: str) -> ObjectRule:
    """A profile of the node has a name, and no other has one."""
    return ObjectRule(
        lambda it: (it["type"] == "Localhost") == ("localhostProfile" in it),
        f"{kind} of type Localhost needs localhostProfile, the file on the nodes, and no other type takes it: change one",
        "(self.type == 'Localhost') == has(self.localhostProfile)",
    )


def _values_fit(it: Object) -> bool:
    values = it.get("values", [])
    match it["operator"]:
        case "In" | "NotIn":
            return bool(values)
        case "Exists" | "DoesNotExist":
            return not values
        case _:
            return len(values) == 1


_VALUES: Final = ObjectRule(
    _values_fit,
    "In and NotIn need values, Exists and DoesNotExist take none, Gt and Lt take one: change operator or values",
    "self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 : "
    "self.operator in ['Exists', 'DoesNotExist'] ? !has(self.values) || self.values.size() == 0 : "
    "has(self.values) && self.values.size() == 1",
)


def _exactly_one(*names: str) -> ObjectRule:
    """One of these fields is given."""
    given = " + ".join(f"(has(self.{name}) ? 1 : 0)" for name in names)
    return ObjectRule(
        lambda it: sum(name in it for name in names) == 1, f"give exactly one of {', '.join(names)}", f"{given} == 1"
    )


def _of_default_group(it: Object) -> bool:
    return bool(it.get("apiGroup")) or it["kind"] == "PersistentVolumeClaim"


def _paths(source: Object) -> Iterator[str]:
    """The files that a projected source makes."""
    for part in source.values():
        yield from (item["path"] for item in part.get("items", []))
        yield from (
            part[name] for name in ("path", "credentialBundlePath", "keyPath", "certificateChainPath") if name in part
        )


def _distinct_paths(it: Object) -> bool:
    paths = [path for source in it.get("sources", []) for path in _paths(source)]
    return len(set(paths)) == len(paths)


def _divides(it: Object) -> bool:
    unit = str(it.get("divisor", "0"))
    return unit in ("0", "1") or unit in (("1m",) if it["resource"].endswith(".cpu") else BYTES)


def _selects(it: Object) -> bool:
    match, mismatch = it.get("matchLabelKeys", []), it.get("mismatchLabelKeys", [])
    selector = it.get("labelSelector")
    if selector is None:
        return not match and not mismatch
    asked = {*selector.get("matchLabels", {}), *(each["key"] for each in selector.get("matchExpressions", []))}
    return not set(match) & ({*mismatch} | asked)


_OF_GROUP: Final = ObjectRule(
    _of_default_group,
    "without apiGroup the kind is PersistentVolumeClaim: give the apiGroup, or that kind",
    "(has(self.apiGroup) && self.apiGroup != '') || self.kind == 'PersistentVolumeClaim'",
)
BYTES: Final = tuple(f"1{unit}" for unit in ("k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))
_ROOT: Final = ObjectRule(
    lambda it: it.get("runAsUser") != 0 or it.get("runAsNonRoot") is False,
    ROOT_NEEDS_CONSENT,
    "!has(self.runAsUser) || self.runAsUser != 0 || (has(self.runAsNonRoot) && !self.runAsNonRoot)",
)
RULES: Final[dict[str, tuple[ObjectRule, ...]]] = {
    "AppArmorProfile": (_profile("an AppArmor profile"),),
    "SeccompProfile": (_profile("a seccomp profile"),),
    "Capabilities": (
        ObjectRule(
            lambda it: not any(name.startswith("CAP_") for name in it.get("add", [])),
            CAPABILITY_PREFIX,
            "!has(self.add) || self.add.all(name, !name.startsWith('CAP_'))",
        ),
    ),
    "ClusterTrustBundleProjection": (
        _exactly_one("name", "signerName"),
        ObjectRule(
            lambda it: "labelSelector" not in it or "signerName" in it,
            "labelSelector chooses among the bundles of a signer: give signerName, or remove it",
            "!has(self.labelSelector) || has(self.signerName)",
        ),
    ),
    "DownwardAPIVolumeFile": (
        _exactly_one("fieldRef", "resourceFieldRef"),
        ObjectRule(
            lambda it: "fieldRef" not in it or it["fieldRef"]["fieldPath"].startswith("metadata."),
            "files tell metadata of the pod only: write metadata.name, metadata.labels or the like, or use env",
            "!has(self.fieldRef) || self.fieldRef.fieldPath.startsWith('metadata.')",
        ),
        ObjectRule(
            lambda it: "resourceFieldRef" not in it or bool(it["resourceFieldRef"].get("containerName")),
            "resourceFieldRef of a file needs containerName, the name of the stage: give it",
            "!has(self.resourceFieldRef) || (has(self.resourceFieldRef.containerName) && self.resourceFieldRef.containerName != '')",
        ),
    ),
    "EnvVarSource": (
        ObjectRule(lambda it: len(it) == 1, ONE_REFERENCE, f"{_count(REFERENCES)} == 1"),
        ObjectRule(
            lambda it: it.get("fieldRef", {}).get("fieldPath") not in ("metadata.labels", "metadata.annotations"),
            "a variable takes one label or annotation: write metadata.labels['KEY'] or metadata.annotations['KEY']",
            "!has(self.fieldRef) || !(self.fieldRef.fieldPath in ['metadata.labels', 'metadata.annotations'])",
        ),
    ),
    "LabelSelectorRequirement": (_VALUES,),
    "FCVolumeSource": (
        ObjectRule(
            lambda it: bool(it.get("targetWWNs")) != bool(it.get("wwids")),
            "give one of targetWWNs and wwids",
            "(has(self.targetWWNs) && self.targetWWNs.size() > 0) != (has(self.wwids) && self.wwids.size() > 0)",
        ),
        ObjectRule(
            lambda it: not it.get("targetWWNs") or "lun" in it,
            "targetWWNs needs lun: give it",
            "!has(self.targetWWNs) || self.targetWWNs.size() == 0 || has(self.lun)",
        ),
    ),
    "FlexVolumeSource": (
        ObjectRule(
            lambda it: (
                not any(re.search(r"(^|\.)(kubernetes|k8s)\.io(/|$)", key.lower()) for key in it.get("options", {}))
            ),
            "options of kubernetes.io and k8s.io are Kubernetes' own: rename them",
        ),
    ),
    "AzureDiskVolumeSource": (
        ObjectRule(
            lambda it: it["diskURI"].startswith("/subscriptions/" if it.get("kind") == "Managed" else "https://"),
            "diskURI begins with /subscriptions/ for kind Managed, and with https:// for any other: correct one",
            "self.diskURI.startsWith(has(self.kind) && self.kind == 'Managed' ? '/subscriptions/' : 'https://')",
        ),
    ),
    "ISCSIVolumeSource": (
        ObjectRule(
            lambda it: not (it.get("chapAuthDiscovery") or it.get("chapAuthSession")) or "secretRef" in it,
            "chapAuthDiscovery and chapAuthSession need secretRef: give it",
            "has(self.secretRef) || !((has(self.chapAuthDiscovery) && self.chapAuthDiscovery) || "
            "(has(self.chapAuthSession) && self.chapAuthSession))",
        ),
    ),
    "NodeSelectorRequirement": (_VALUES,),
    "NodeSelectorTerm": (
        ObjectRule(
            lambda it: all(
                each["key"] == "metadata.name" and each["operator"] in ("In", "NotIn") and len(each["values"]) == 1
                for each in it.get("matchFields", [])
            ),
            "matchFields knows metadata.name only, with In or NotIn and one value: use matchExpressions for labels",
            "!has(self.matchFields) || self.matchFields.all(each, each.key == 'metadata.name' && each.operator in ['In', 'NotIn'] && "
            "has(each.values) && each.values.size() == 1)",
        ),
        ObjectRule(
            lambda it: all(
                DNS_NAME.matches(name) for each in it.get("matchFields", []) for name in each.get("values", [])
            ),
            f"the value of matchFields is a node's name: write {DNS_NAME.words}",
        ),
    ),
    "PersistentVolumeClaimSpec": (
        ObjectRule(
            lambda it: number_of(it["resources"].get("requests", {}).get("storage", 0)) > 0,
            "a claim asks for storage: give resources.requests.storage, for example 100Gi",
        ),
        ObjectRule(
            lambda it: "ReadWriteOncePod" not in it["accessModes"] or set(it["accessModes"]) == {"ReadWriteOncePod"},
            "ReadWriteOncePod excludes other access modes: give it alone, or the others",
            "!('ReadWriteOncePod' in self.accessModes) || self.accessModes.all(mode, mode == 'ReadWriteOncePod')",
        ),
        ObjectRule(
            lambda it: not ("dataSource" in it and "dataSourceRef" in it),
            "dataSource and dataSourceRef say the same: give one",
            "!has(self.dataSource) || !has(self.dataSourceRef)",
        ),
    ),
    "TypedLocalObjectReference": (_OF_GROUP,),
    "TypedObjectReference": (_OF_GROUP,),
    "PodAffinityTerm": (
        ObjectRule(
            _selects,
            "matchLabelKeys and mismatchLabelKeys need labelSelector, and no key may stand in two of them: correct them",
        ),
    ),
    "PodCertificateProjection": (
        ObjectRule(
            lambda it: any(name in it for name in ("credentialBundlePath", "keyPath", "certificateChainPath")),
            "give at least one of credentialBundlePath, keyPath and certificateChainPath",
            "has(self.credentialBundlePath) || has(self.keyPath) || has(self.certificateChainPath)",
        ),
    ),
    "ProjectedVolumeSource": (
        ObjectRule(_distinct_paths, "two sources make the same file: give each a path of its own"),
    ),
    "ResourceFieldSelector": (
        ObjectRule(_divides, "divisor is 1 or 1m for cpu, and 1 or one unit, such as 1Mi, for all else: correct it"),
    ),
    "VolumeProjection": (
        ObjectRule(
            lambda it: len(it) <= 1,
            "each of sources has one kind: give a source for each",
            f"{_count(definitions().types['VolumeProjection']['fields'])} <= 1",
        ),
    ),
    "PodSecurityContext": (
        _ROOT,
        ObjectRule(
            lambda it: (
                len({each["name"].replace("/", ".") for each in it.get("sysctls", [])}) == len(it.get("sysctls", []))
            ),
            "two of sysctls have one name: remove one",
        ),
    ),
    "SecurityContext": (
        _ROOT,
        ObjectRule(
            lambda it: not (it.get("privileged") and it.get("allowPrivilegeEscalation") is False),
            PRIVILEGED_ESCALATES,
            "!has(self.privileged) || !self.privileged || !has(self.allowPrivilegeEscalation) || self.allowPrivilegeEscalation",
        ),
        ObjectRule(
            lambda it: it.get("procMount") != "Unmasked",
            "procMount: Unmasked needs a user namespace, which these pods do not have: remove it",
            "!has(self.procMount) || self.procMount != 'Unmasked'",
        ),
    ),
    "Toleration": (
        ObjectRule(
            lambda it: bool(it.get("key")) or it.get("operator") == "Exists",
            "a toleration without key tolerates every taint, which needs operator: Exists; give the key, or Exists",
            "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
        ),
        ObjectRule(
            lambda it: "tolerationSeconds" not in it or it.get("effect") == "NoExecute",
            "tolerationSeconds needs effect: NoExecute; give it, or remove tolerationSeconds",
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        ),
        ObjectRule(
            lambda it: it.get("operator") != "Exists" or not it.get("value"),
            "operator: Exists takes no value; remove the value, or write operator: Equal",
            "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
        ),
    ),
    "Volume": (
        ObjectRule(lambda it: len(it) <= 2, TOO_MANY_SOURCES, f"{_count(SOURCES)} <= 1"),
        ObjectRule(
            lambda it: (
                "initiatorName" not in it.get("iscsi", {}) or len(it["name"]) + len(it["iscsi"]["targetPortal"]) <= 62
            ),
            "with initiatorName, name and iscsi.targetPortal have at most 62 characters together: shorten the name",
        ),
    ),
    "VolumeMount": (
        ObjectRule(
            lambda it: not (it.get("subPath") and it.get("subPathExpr")),
            "subPath and subPathExpr exclude each other: give one",
            "!has(self.subPath) || self.subPath == '' || !has(self.subPathExpr) || self.subPathExpr == ''",
        ),
        ObjectRule(
            lambda it: (
                it.get("recursiveReadOnly", "Disabled") == "Disabled"
                or (it.get("readOnly") is True and it.get("mountPropagation", "None") == "None")
            ),
            "recursiveReadOnly needs readOnly: true and no mountPropagation: change one",
            "!has(self.recursiveReadOnly) || self.recursiveReadOnly == 'Disabled' || (has(self.readOnly) && self.readOnly && "
            "(!has(self.mountPropagation) || self.mountPropagation == 'None'))",
        ),
    ),
}
"""By type."""
