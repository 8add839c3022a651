"""The student: network, concept heads, compilation, export and card."""
