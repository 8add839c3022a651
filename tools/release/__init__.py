"""Makes a release and publishes it, or rehearses that against a registry of this machine: `python -m tools.release
--help`.

`artefacts` builds what is published from one commit, `provenance` writes what is stated of it, `signing` signs by
cosign, `registry` serves a rehearsal, `documented` runs the commands by which docs/install.md lets a user check it all,
and `programs` has the tools.
"""
