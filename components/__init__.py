"""TorchX components of the four stages: `torchx run -s SCHEDULER components.NAME [-j ...] -- --run FILE [--set PATH=VALUE]...`.

Each reads the run document where it is submitted, and ships it to the job; nothing else of this machine is needed there. They
stand in this file because TorchX's linter reads it, with the annotations that every TorchX release since 0.7 takes.
"""

from torchx.specs import AppDef

from diht_k8s.launch import stages


def cat_filter(*script_args: str, j: str = "", image: str = "") -> AppDef:
    """Stage 1: the CAT filter (complexity, action, text spotting) scores every pair and keeps the good ones.

    Example: torchx run -s local_cwd components.cat_filter -j 2 -- --run run.yaml --set filter.minActions=0

    Args:
        script_args: --run FILE, --set PATH=VALUE (below spec, may be repeated); anything else goes to `diht stage filter`
        j: number of workers that share the shards; empty takes filter.workers of the run document
        image: container image; empty takes pods.image of the run document
    """
    return stages.submitted("filter", script_args, shape=j, image=image)


def label(*script_args: str, j: str = "", image: str = "") -> AppDef:
    """Stage 2: a frozen teacher puts soft concept labels on what the filter kept.

    Example: torchx run -s local_cwd components.label -j 2 -- --run run.yaml

    Args:
        script_args: --run FILE, --set PATH=VALUE (below spec, may be repeated); anything else goes to `diht stage label`
        j: number of workers that run the teacher; empty takes label.workers of the run document
        image: container image; empty takes pods.image of the run document
    """
    return stages.submitted("label", script_args, shape=j, image=image)


def train(*script_args: str, j: str = "", image: str = "") -> AppDef:
    """Stage 3: trains the CLIP-type model with hard negatives and concept distillation.

    Example: torchx run -s local_cwd components.train -j 1x2 -- --run run.yaml --set train.samples=10000

    Args:
        script_args: --run FILE, --set PATH=VALUE (below spec, may be repeated); anything else goes to `diht stage train`
        j: NODESxPROCESSES, one process per GPU; empty takes train.numNodes and train.processesPerNode of the run document
        image: container image; empty takes pods.image of the run document
    """
    return stages.submitted("train", script_args, shape=j, image=image)


def evaluate(*script_args: str, image: str = "") -> AppDef:
    """Stage 4: zero-shot classification, retrieval and few-shot of the trained model, and the report.

    Example: torchx run -s local_cwd components.evaluate -- --run run.yaml

    Args:
        script_args: --run FILE, --set PATH=VALUE (below spec, may be repeated); anything else goes to `diht stage evaluate`
        image: container image; empty takes pods.image of the run document
    """
    return stages.submitted("evaluate", script_args, shape="", image=image)
