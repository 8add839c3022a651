"""The contract: run document, exit codes, artefacts, progress. Everything else imports it; it imports neither torch nor a cluster."""
