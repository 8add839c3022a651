"""TorchX components of the four stages: `torchx run -s SCHEDULER components.NAME [-j ...] -- --run FILE [...]`.

Overrides are written `--set=A=1 --set=B=2`: TorchX refuses an option that is repeated as `--set A=1`.

Each component reads the run document on the machine that submits the job, and sends it along; the job needs nothing
else from that machine. The file holds signatures only: TorchX's linter reads it, with annotations that every TorchX
since 0.7 accepts.
"""

from torchx.specs import AppDef

from diht_k8s.launch import stages


def cat_filter(*script_args: str, j: str = "", image: str = "") -> AppDef:
    """Stage 1: the CAT filter (complexity, action, text spotting) scores all pairs and keeps those that pass its rules.

    Example: torchx run -s local_cwd components.cat_filter -j 2 -- --run run.yaml --set=filter.minActions=0

    Args:
        script_args: --run FILE, --set=PATH=VALUE (below spec, repeatable in this form)
        j: number of workers that share the shards; empty: filter.workers of the run document
        image: container image; empty: pods.image of the run document
    """
    return stages.component_app("filter", script_args, shape=j, image=image)


def label(*script_args: str, j: str = "", image: str = "") -> AppDef:
    """Stage 2: a frozen teacher adds soft concept labels to the pairs that the filter kept.

    Example: torchx run -s local_cwd components.label -j 2 -- --run run.yaml

    Args:
        script_args: --run FILE, --set=PATH=VALUE (below spec, repeatable in this form), --step STEP
        j: number of workers that share --step predict (worker 0 does all the rest alone); empty: label.workers
        image: container image; empty: pods.image of the run document
    """
    return stages.component_app("label", script_args, shape=j, image=image)


def train(*script_args: str, j: str = "", image: str = "") -> AppDef:
    """Stage 3: trains a CLIP model with hard negatives and concept distillation.

    Example: torchx run -s local_cwd components.train -j 1x2 -- --run run.yaml --set=train.samples=10000

    Args:
        script_args: --run FILE, --set=PATH=VALUE (below spec, repeatable in this form)
        j: NODESxPROCESSES, one process per GPU; empty: train.numNodes and train.processesPerNode of the run document
        image: container image; empty: pods.image of the run document
    """
    return stages.component_app("train", script_args, shape=j, image=image)


def evaluate(*script_args: str, image: str = "") -> AppDef:
    """Stage 4: evaluates the model (zero-shot classification, retrieval, few-shot) and writes the report.

    Example: torchx run -s local_cwd components.evaluate -- --run run.yaml

    Args:
        script_args: --run FILE, --set=PATH=VALUE (below spec, repeatable in this form)
        image: container image; empty: pods.image of the run document
    """
    return stages.component_app("evaluate", script_args, shape="", image=image)
