"""The student: network, first weights, warm start, export and card."""
