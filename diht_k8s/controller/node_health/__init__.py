"""Faults of nodes that node monitors report (taints and conditions), and gangs that move away from them."""
