"""What Kubernetes' API server takes in the fields of its objects, beyond their types: names, choices, bounds.

Its published schema says none of it (https://github.com/kubernetes/kubernetes, pkg/apis/core/validation). A required
text may not be empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Format:
    """How a text looks."""

    pattern: str
    """in the syntax that Python, pydantic and Kubernetes share (RE2)."""
    words: str
    """the same for a person."""

    def matches(self, text: str) -> bool:
        """Whether the whole text looks so."""
        return re.fullmatch(self.pattern, text) is not None


_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_WORD: Final = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_SEGMENT: Final = r"([^/.\x00][^/\x00]*|\.([^/.\x00][^/\x00]*)?|\.\.[^/\x00]+)"
DNS_LABEL: Final = Format(f"^{_LABEL}$", "lower-case letters, digits and dashes, with a letter or digit at both ends")
DNS_NAME: Final = Format(
    rf"^{_LABEL}(\.{_LABEL})*$", "lower-case letters, digits, dashes and dots, with a letter or digit at both ends"
)
QUALIFIED: Final = Format(
    rf"^({_LABEL}(\.{_LABEL})*/)?{_WORD}$",
    "NAME or DOMAIN/NAME, where NAME has at most 63 letters, digits, `-`, `_` and `.`",
)
WITH_DOMAIN: Final = Format(rf"^{_LABEL}(\.{_LABEL})+/{_WORD}$", "DOMAIN/NAME, for example example.org/team")
LABEL_VALUE: Final = Format(
    r"^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$",
    "letters, digits, `-`, `_` and `.`, with a letter or digit at both ends",
)
FILE_KEY: Final = Format(
    r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$", "letters, digits, `-`, `_` and `.`, not beginning with `..`"
)
ABSOLUTE: Final = Format(r"^/[^\x00]*$", "an absolute path")
NO_COLON: Final = Format("^[^:]+$", "a path without a colon")
BELOW: Final = Format(rf"^({_SEGMENT}(/{_SEGMENT}?)*)?$", "a relative path without `..`")
FILE_BELOW: Final = Format(
    rf"^([^/.\x00][^/\x00]*|\.([^/.\x00][^/\x00]*)?)(/{_SEGMENT}?)*$",
    "a relative path that has no `..` and does not begin with it",
)
NO_PARENTS: Final = Format(rf"^/*({_SEGMENT}(/+{_SEGMENT})*/*)?$", "a path without `..`")
CAPABILITY: Final = Format("^[A-Z_]+$", "upper-case letters and underscores, such as IPC_LOCK")
SYSCTL: Final = Format(
    r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
    "a parameter's name, such as net.core.somaxconn",
)
_KEY: Final = rf"\['({_LABEL}(\.{_LABEL})*/)?{_WORD}'\]"
FIELD_PATH: Final = Format(
    rf"^(metadata\.(name|namespace|uid)|metadata\.(labels|annotations)({_KEY})?|spec\.(nodeName|serviceAccountName)"
    r"|status\.(hostIP|hostIPs|podIP|podIPs))$",
    "a field of the pod: metadata.name, metadata.namespace, metadata.uid, metadata.labels['KEY'], metadata.annotations['KEY'], "
    "spec.nodeName, spec.serviceAccountName, status.hostIP, status.hostIPs, status.podIP or status.podIPs",
)
SIGNER: Final = Format(
    rf"^{_LABEL}(\.{_LABEL})+/{_LABEL}([.:/]{_LABEL})*$", "DOMAIN/NAME of a signer, for example example.org/ca"
)
ISCSI_NAME: Final = Format(
    r"^(iqn\.[0-9]{4}-[0-9]{2}\.([a-z0-9.-]+)(:([^,;*&$|\s]+))?|eui\.[0-9A-Fa-f]{16}|naa\.[0-9A-Fa-f]{32})$",
    "an iSCSI name, for example iqn.2001-04.org.example:disk1",
)
RESOURCE_PATH: Final = Format(
    r"^(limits|requests)\.(cpu|memory|ephemeral-storage|hugepages-[0-9]+[KMGT]i)$",
    "limits.RESOURCE or requests.RESOURCE of cpu, memory, ephemeral-storage or hugepages-SIZE",
)
IMAGE: Final = Format(r"^[^\s\x00-\x1f\x7f]+$", "an image without spaces, such as registry.example.org/recipe:1")


@dataclass(frozen=True)
class Bounds:
    """What a field takes; of a list or map, what its items take."""

    format: Format | None = None
    one_of: tuple[str, ...] = ()
    least: int = 0
    """characters."""
    most: int = 0
    """characters; 0 leaves it to a common bound."""
    low: int | None = None
    high: int | None = None
    items: int = 0
    """most items of a list; 0 leaves it to a common bound."""
    least_items: int = 0
    keys: Format | None = None
    """of a map."""


_MODE: Final = Bounds(low=0, high=0o777)
_ID: Final = Bounds(low=0, high=2**31 - 1)
_GIVEN: Final = Bounds(least=1)
_WEIGHT: Final = Bounds(low=1, high=100)
_NAME: Final = Bounds(DNS_NAME, least=1, most=253)
_LABEL_KEY: Final = Bounds(QUALIFIED, least=1, most=317)
_NAME_OR_NONE: Final = Bounds(Format(f"^({DNS_NAME.pattern[1:-1]})?$", DNS_NAME.words), most=253)
_FILE: Final = Bounds(FILE_BELOW, least=1, most=1024)
_FILE_KEY: Final = Bounds(FILE_KEY, least=1, most=253)
_LABEL_OPERATORS: Final = ("In", "NotIn", "Exists", "DoesNotExist")
_PROFILES: Final = Bounds(one_of=("RuntimeDefault", "Localhost", "Unconfined"))
_PARTITION: Final = Bounds(low=0, high=255)
_POLICY: Final = Bounds(one_of=("Always", "IfNotPresent", "Never"))
_CAPABILITIES: Final = Bounds(CAPABILITY, most=63)

BOUNDS: Final[dict[str, Bounds]] = {
    "AWSElasticBlockStoreVolumeSource.volumeID": _GIVEN,
    "AWSElasticBlockStoreVolumeSource.partition": _PARTITION,
    "AppArmorProfile.type": _PROFILES,
    "AppArmorProfile.localhostProfile": _GIVEN,
    "AzureDiskVolumeSource.diskName": _GIVEN,
    "AzureDiskVolumeSource.diskURI": _GIVEN,
    "AzureDiskVolumeSource.cachingMode": Bounds(one_of=("None", "ReadOnly", "ReadWrite")),
    "AzureDiskVolumeSource.kind": Bounds(one_of=("Shared", "Dedicated", "Managed")),
    "AzureFileVolumeSource.secretName": _GIVEN,
    "AzureFileVolumeSource.shareName": _GIVEN,
    "CSIVolumeSource.driver": Bounds(
        Format(r"^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?$", "the name of a CSI driver, such as csi.example.org"),
        least=1,
        most=63,
    ),
    "CSIVolumeSource.volumeAttributes": Bounds(most=4096),
    "Capabilities.add": _CAPABILITIES,
    "Capabilities.drop": _CAPABILITIES,
    "CinderVolumeSource.volumeID": _GIVEN,
    "ClusterTrustBundleProjection.name": _GIVEN,
    "ClusterTrustBundleProjection.path": _FILE,
    "ClusterTrustBundleProjection.signerName": Bounds(SIGNER, least=1, most=571),
    "ConfigMapKeySelector.key": _FILE_KEY,
    "ConfigMapKeySelector.name": _NAME,
    "ConfigMapProjection.name": _NAME,
    "ConfigMapVolumeSource.name": _NAME,
    "ConfigMapVolumeSource.defaultMode": _MODE,
    "DownwardAPIVolumeFile.path": _FILE,
    "DownwardAPIVolumeFile.mode": _MODE,
    "DownwardAPIVolumeSource.defaultMode": _MODE,
    "FCVolumeSource.lun": Bounds(low=0, high=255),
    "FileKeySelector.key": Bounds(Format("^[ -<>-~]+$", "printable ASCII characters without `=`"), least=1, most=253),
    "FileKeySelector.path": _FILE,
    "FileKeySelector.volumeName": Bounds(DNS_LABEL, least=1, most=63),
    "FlexVolumeSource.driver": _GIVEN,
    "FlexVolumeSource.options": Bounds(most=4096),
    "GCEPersistentDiskVolumeSource.pdName": _GIVEN,
    "GCEPersistentDiskVolumeSource.partition": _PARTITION,
    "HostPathVolumeSource.path": Bounds(NO_PARENTS, least=1),
    "HostPathVolumeSource.type": Bounds(
        one_of=("", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice")
    ),
    "ISCSIVolumeSource.initiatorName": Bounds(ISCSI_NAME, least=1),
    "ISCSIVolumeSource.iqn": Bounds(ISCSI_NAME, least=1),
    "ISCSIVolumeSource.lun": Bounds(low=0, high=255),
    "ISCSIVolumeSource.targetPortal": _GIVEN,
    "ImageVolumeSource.pullPolicy": _POLICY,
    "ImageVolumeSource.reference": _GIVEN,
    "KeyToPath.key": _FILE_KEY,
    "KeyToPath.mode": _MODE,
    "KeyToPath.path": _FILE,
    "LabelSelector.matchLabels": Bounds(LABEL_VALUE, most=63, keys=QUALIFIED),
    "LabelSelectorRequirement.key": _LABEL_KEY,
    "LabelSelectorRequirement.operator": Bounds(one_of=_LABEL_OPERATORS),
    "LabelSelectorRequirement.values": Bounds(LABEL_VALUE, most=63, items=256),
    "LocalObjectReference.name": _NAME,
    "NFSVolumeSource.path": Bounds(ABSOLUTE, least=1),
    "NFSVolumeSource.server": _GIVEN,
    "NodeSelector.nodeSelectorTerms": Bounds(least_items=1),
    "NodeSelectorRequirement.key": _LABEL_KEY,
    "NodeSelectorRequirement.operator": Bounds(one_of=(*_LABEL_OPERATORS, "Gt", "Lt")),
    "NodeSelectorRequirement.values": Bounds(LABEL_VALUE, most=63, items=256),
    "ObjectFieldSelector.apiVersion": Bounds(one_of=("v1",)),
    "ObjectFieldSelector.fieldPath": Bounds(FIELD_PATH, most=400),
    "ObjectMeta.annotations": Bounds(most=4096, keys=QUALIFIED),
    "ObjectMeta.labels": Bounds(LABEL_VALUE, most=63, keys=QUALIFIED),
    "PersistentVolumeClaimSpec.accessModes": Bounds(
        one_of=("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"), least_items=1
    ),
    "PersistentVolumeClaimSpec.storageClassName": _NAME_OR_NONE,
    "PersistentVolumeClaimSpec.volumeAttributesClassName": _NAME_OR_NONE,
    "PersistentVolumeClaimSpec.volumeMode": Bounds(one_of=("Filesystem", "Block")),
    "PersistentVolumeClaimVolumeSource.claimName": _NAME,
    "PodAffinityTerm.topologyKey": _LABEL_KEY,
    "PodAffinityTerm.namespaces": Bounds(DNS_LABEL, least=1, most=63),
    "PodAffinityTerm.matchLabelKeys": _LABEL_KEY,
    "PodAffinityTerm.mismatchLabelKeys": _LABEL_KEY,
    "PodCertificateProjection.certificateChainPath": _FILE,
    "PodCertificateProjection.credentialBundlePath": _FILE,
    "PodCertificateProjection.keyPath": _FILE,
    "PodCertificateProjection.keyType": Bounds(
        one_of=("RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519")
    ),
    "PodCertificateProjection.maxExpirationSeconds": Bounds(low=3600, high=91 * 86400),
    "PodCertificateProjection.signerName": Bounds(SIGNER, least=1, most=571),
    "PodCertificateProjection.userAnnotations": Bounds(most=4096, keys=WITH_DOMAIN),
    "PodSecurityContext.fsGroup": _ID,
    "PodSecurityContext.fsGroupChangePolicy": Bounds(one_of=("OnRootMismatch", "Always")),
    "PodSecurityContext.runAsGroup": _ID,
    "PodSecurityContext.runAsUser": _ID,
    "PodSecurityContext.seLinuxChangePolicy": Bounds(one_of=("MountOption", "Recursive")),
    "PodSecurityContext.supplementalGroups": _ID,
    "PodSecurityContext.supplementalGroupsPolicy": Bounds(one_of=("Merge", "Strict")),
    "PortworxVolumeSource.volumeID": _GIVEN,
    "PreferredSchedulingTerm.weight": _WEIGHT,
    "ProjectedVolumeSource.defaultMode": _MODE,
    "ResourceFieldSelector.resource": Bounds(RESOURCE_PATH, most=100),
    "SeccompProfile.type": _PROFILES,
    "SeccompProfile.localhostProfile": Bounds(BELOW, least=1),
    "SecretKeySelector.key": _FILE_KEY,
    "SecretKeySelector.name": _NAME,
    "SecretProjection.name": _NAME,
    "SecretVolumeSource.defaultMode": _MODE,
    "SecretVolumeSource.secretName": _NAME,
    "SecurityContext.procMount": Bounds(one_of=("Default", "Unmasked")),
    "SecurityContext.runAsGroup": _ID,
    "SecurityContext.runAsUser": _ID,
    "ServiceAccountTokenProjection.expirationSeconds": Bounds(low=600, high=2**32),
    "ServiceAccountTokenProjection.path": _FILE,
    "Sysctl.name": Bounds(SYSCTL, least=1, most=253),
    "Sysctl.value": Bounds(most=253),
    "Toleration.key": Bounds(Format(rf"^({QUALIFIED.pattern[1:-1]})?$", QUALIFIED.words), most=317),
    "Toleration.operator": Bounds(one_of=("", "Exists", "Equal")),
    "Toleration.effect": Bounds(one_of=("", "NoSchedule", "PreferNoSchedule", "NoExecute")),
    "Toleration.value": Bounds(LABEL_VALUE, most=63),
    "TypedLocalObjectReference.apiGroup": _NAME_OR_NONE,
    "TypedLocalObjectReference.kind": _GIVEN,
    "TypedLocalObjectReference.name": _GIVEN,
    "TypedObjectReference.apiGroup": _NAME_OR_NONE,
    "TypedObjectReference.kind": _GIVEN,
    "TypedObjectReference.name": _GIVEN,
    "TypedObjectReference.namespace": Bounds(DNS_LABEL, least=1, most=63),
    "Volume.name": Bounds(DNS_LABEL, least=1, most=63),
    "VolumeResourceRequirements.requests": Bounds(keys=Format("^storage$", "storage")),
    "VolumeResourceRequirements.limits": Bounds(keys=Format("^storage$", "storage")),
    "VolumeMount.mountPath": Bounds(NO_COLON, least=1),
    "VolumeMount.mountPropagation": Bounds(one_of=("None", "HostToContainer", "Bidirectional")),
    "VolumeMount.name": Bounds(DNS_LABEL, least=1, most=63),
    "VolumeMount.recursiveReadOnly": Bounds(one_of=("Disabled", "IfPossible", "Enabled")),
    "VolumeMount.subPath": Bounds(BELOW),
    "VolumeMount.subPathExpr": Bounds(BELOW),
    "VsphereVirtualDiskVolumeSource.volumePath": _GIVEN,
    "WeightedPodAffinityTerm.weight": _WEIGHT,
}
"""By `TYPE.FIELD`."""
FORMATS: Final = {IMAGE, DNS_NAME, LABEL_VALUE, *(bounds.format for bounds in BOUNDS.values() if bounds.format)}
"""All that a field may ask of a text."""
ALSO_REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "ConfigMapKeySelector": ("name",),
    "ConfigMapProjection": ("name",),
    "ConfigMapVolumeSource": ("name",),
    "EphemeralVolumeSource": ("volumeClaimTemplate",),
    "ImageVolumeSource": ("reference",),
    "LocalObjectReference": ("name",),
    "PersistentVolumeClaimSpec": ("accessModes", "resources"),
    "SecretKeySelector": ("name",),
    "SecretProjection": ("name",),
    "SecretVolumeSource": ("secretName",),
}
"""Fields that Kubernetes' schema leaves open and its API server asks for."""
_GONE: Final = "Kubernetes no longer mounts such volumes: use a CSI driver, through persistentVolumeClaim or csi"
UNSUPPORTED: Final[dict[str, str]] = {
    **{
        f"Volume.{kind}": _GONE
        for kind in ("cephfs", "flocker", "glusterfs", "photonPersistentDisk", "quobyte", "rbd", "scaleIO", "storageos")
    },
    "Volume.gitRepo": "Kubernetes no longer mounts such volumes: put the files into the image, or into an image volume",
    "SecurityContext.windowsOptions": "the programs run on Linux only: remove it",
    "PodSecurityContext.windowsOptions": "the programs run on Linux only: remove it",
}
"""What Kubernetes' schema has and these types leave out, and why."""
