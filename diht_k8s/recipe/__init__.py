"""Programs that run inside pods: filter, label, train, evaluate. Torch lives here; no cluster does."""
