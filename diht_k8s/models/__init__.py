"""CLIP-type models from our export, open_clip, released DiHT checkpoints and plain files, and back; features of both
sides.
"""
