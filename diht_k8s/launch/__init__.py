"""From a TorchX AppDef to a workload on a cluster."""
