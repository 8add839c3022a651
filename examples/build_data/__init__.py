"""Builds the demo's data set from Debian packages: .debs in, WebDataset shards with licences and counts out.

Run it by `python -m examples.build_data --debs FOLDER` from the project's root. The shards are committed, so only a
change of the recipe of this folder needs it. The
held-out split has a program and packages of its own: `python -m examples.build_data.held_out`.
"""
