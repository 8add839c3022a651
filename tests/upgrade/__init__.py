"""The release that upgrades start from (`release`, frozen by `python -m tools.release.freezing`), and one that may come after it.

`release` holds wheel and chart of the newest release, and of which version and commit they are; before the first tag it is a commit
on the way to it. A maintainer freezes each release after its tag (CONTRIBUTING.md): the tests of upgrades, in the tiers contract,
recipe and cluster, then start from that one.
"""
