"""HN-NCE and concept distillation (paper sections 3.2 and 3.3), and distillation of a teacher's embeddings."""
