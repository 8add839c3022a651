"""The contract: run document, exit codes, artefacts, progress. It imports neither torch nor a cluster client."""
