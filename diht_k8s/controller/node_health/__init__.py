"""What node monitors say of nodes (taints and conditions), and gangs that move away from them."""
