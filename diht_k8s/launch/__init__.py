"""TorchX AppDefs of the stages, and the schedulers that run them locally or as objects of a cluster."""
