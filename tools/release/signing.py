"""Signs by cosign with a key: what is in a registry, and a statement about files. No transparency log is told.

A log publishes who signed what and when, which is what a signature without a key rests on; with a key the user has the
public one.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.release.programs import program
from tools.release.shell import run

NO_LOG: Final = {
    "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
    "rekorTlogUrls": [],
    "tsaUrls": [],
}
NO_ROOT: Final = {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}
"""Without these two cosign asks servers of sigstore's."""


def generated_key(folder: Path) -> str:
    """A new private key without a password, as cosign names it: for a rehearsal."""
    folder.mkdir(parents=True, exist_ok=True)
    run(program("cosign"), "generate-key-pair", cwd=folder, env={"COSIGN_PASSWORD": ""})
    return str(folder / "cosign.key")


@dataclass(frozen=True)
class Signer:
    """Signs with one key; what cosign wants as files lies in a folder."""

    key: str
    """as cosign names it: a file, `env://VARIABLE` or a key of a KMS; COSIGN_PASSWORD has its password"""
    folder: Path

    def image(self, reference: str, predicates: dict[str, Path]) -> None:
        """Sign what is in a registry, and attach what is stated of it.

        Args:
            reference: with its digest.
            predicates: cosign's name of a predicate's type -> the predicate's file.

        Raises:
            subprocess.CalledProcessError: cosign failed.
        """
        self._cosign("sign", reference)
        for kind, path in predicates.items():
            self._cosign("attest", "--type", kind, "--predicate", path, reference)

    def files(self, statement: Path, bundle: Path) -> None:
        """Sign a statement; a bundle has it with its signature.

        Raises:
            subprocess.CalledProcessError: cosign failed.
        """
        self._cosign("attest-blob", "--statement", statement, "--bundle", bundle)

    def public_key(self, path: Path) -> None:
        """Write the public key.

        Raises:
            subprocess.CalledProcessError: cosign failed.
        """
        run(program("cosign"), "public-key", "--key", self.key, "--outfile", path, env=_password())

    def _cosign(self, verb: str, *words: str | Path) -> None:
        config, root = self._written("signing-config.json", NO_LOG), self._written("trusted-root.json", NO_ROOT)
        offline = ("--signing-config", config, "--trusted-root", root)
        run(program("cosign"), verb, "--yes", "--key", self.key, *offline, *words, env=_password())

    def _written(self, name: str, document: dict[str, Any]) -> Path:
        path = self.folder / name
        path.write_text(json.dumps(document))
        return path


def _password() -> dict[str, str]:
    """That of the private key: cosign would ask a person for it."""
    return {"COSIGN_PASSWORD": os.environ.get("COSIGN_PASSWORD", "")}
