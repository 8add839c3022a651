"""DiHT (arXiv 2301.02280) as one resource: CAT filter, concept labels, training and evaluation, from a laptop to a GPU cluster."""

__version__ = "0.1.0"
