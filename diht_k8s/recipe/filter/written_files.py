"""Which files of shards lie in the stage's folder, by listings: 1,000 names a request in place of one for each shard."""

from __future__ import annotations

from diht_k8s.api.layout import join
from diht_k8s.recipe.runtime.stage import Context


class WrittenFiles:
    """What the last listing has found."""

    def __init__(self, context: Context, *, duplicates: bool) -> None:
        """Prepare; nothing is listed yet.

        Args:
            context: the stage's context.
            duplicates: whether the run drops repeated images, so that a shard has fingerprints, too.
        """
        self._context, self._duplicates = context, duplicates
        self.scored = frozenset[str]()
        """names of the shards with scores."""
        self.done = frozenset[str]()
        """names of the shards with all files that belong to scores."""
        self.kept = frozenset[str]()
        """names of the files of kept pairs that earlier starts have left."""
        self._listed = False

    def list_again(self) -> None:
        """List the folders as they are now."""
        self.scored = self._shards("scores")
        self.done = self.scored & self._shards("fingerprints") if self._duplicates else self.scored
        if not self._listed:
            self.kept, self._listed = frozenset(self._names("kept")), True

    def _shards(self, folder: str) -> frozenset[str]:
        return frozenset(name.removesuffix(".parquet") for name in self._names(folder))

    def _names(self, folder: str) -> list[str]:
        context = self._context
        return context.storage.names(join(context.layout.stage(context.stage), folder))
