"""Mutants that the tests of their module need not kill, with the reason: `module: line with [before -> after]`."""

from __future__ import annotations

from typing import Final

KNOWN: Final[dict[str, str]] = {
    "matching: ACCENTS: Final = [200 -> 201]": "no character has the combining class 200",
    "matching: plain = ''.join((character for character in decomposed if unicodedata.combining(character) [< -> <=] ACCENTS))": "no character has the combining class 200",
    "matching: shifts = range(count - len(other), len(one) - count + [1 -> 2])": "the additional shift overlaps in fewer characters than must match",
    "sampler: least = min(weights, default=[1.0 -> 2.0])": "not used without weights",
    "losses: num_pairs = image_BD.shape[0] [* -> /] group_size(settings.group)": "the group is one process; tests/recipe/train/test_losses_distributed.py decides it (4 pairs on 4 ranks)",
    "hn_nce: hard_factor, weight_factor = (1 + beta, beta) if settings.weights_have_gradient else (1.0, [0.0 -> 1.0])": "log_weight is not read where the weights have no gradient",
    "losses: outwards = (value >= high) & (gradient [< -> <=] 0) | (value <= low) & (gradient > 0)": "masks a gradient of 0 by 0",
    "losses: outwards = (value >= high) & (gradient < 0) | (value <= low) & (gradient [> -> >=] 0)": "masks a gradient of 0 by 0",
    "hn_nce: peak, hard = (torch.where(some, sums.peak, 0.0), torch.where(some, sums.hard, [1.0 -> 2.0]))": "filling for pairs without negatives, whose loss and share are 0",
    "hn_nce: return (NegativeSums(*(torch.cat(parts) for parts in zip(*rows, strict=[True -> False]))), columns, torch.cat(positives))": "all rows are tuples of one type",
    "hn_nce: first_column = group_rank(settings.group) * image_BD.shape[[0 -> 1]]": "the rank is 0 in one process; tests/recipe/train/test_losses_distributed.py decides it",
    "hn_nce: peak, hard = (torch.where(some, sums.peak, [0.0 -> 1.0]), torch.where(some, sums.hard, 1.0))": "filling for pairs without negatives, whose loss and share are 0",
    "losses: def hn_nce_loss(image_features_BD: Tensor, text_features_BD: Tensor, logit_scale: Tensor | float, *, alpha: float=1.0, beta: float=[0.25 -> 1.25], differentiate_weights: bool=True, chunk_size: int=256, group: dist.ProcessGroup | None=None, caption_ids_B: Tensor | None=None) -> Tensor:": "a default for callers of the function; no test fixes the number",
    "failure_policy: most_s: float = [300.0 -> 301.0]": "a default; no test fixes the number",
    "failure_policy: return min(self.most_s, self.first_s * 2.0 ** min(restarts - 1, [32 -> 33])) * (1 + self.jitter / 4)": "both powers are far above most_s",
    "run_status: if ended_at [<= -> <] status.ran_until or since is None or ended_at < since:": "an interval that ends where the counted time ends adds 0 s, and an attempt that runs begins a new one at once",
    "failure_policy: count = min(used, max([0 -> 1], seconds - since) // heal_seconds)": "one second gives no restart back",
    "loader: STOP_SECONDS = [30.0 -> 31.0]": "a limit; no test fixes the number",
    "dataset: SHARD_CACHE_BYTES = [256 -> 257] << 20": "the size of a cache; no test fixes the number",
    "loop: if self.rank == [0 -> 1]:": "who says that the training resumes; tests/recipe/train/test_stage.py decides it (of the other such line it is killed)",
    "loader: ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, [0 -> 1], 0, 0)": "the kernel reads no argument after the signal",
    "gradient_caching: torch.cuda.set_rng_state(state[[1 -> 2]], device)": "GPUs only; tests/gpu resumes there",
    "collate: return int(digest[:15], [16 -> 17])": "any base gives equal captions equal numbers and others different ones",
    "bootstrap: _BLOCK_VALUES: Final = [1 -> 2] << 22": "the size of a block; the draws are the same",
    "bootstrap: _BLOCK_VALUES: Final = 1 << [22 -> 23]": "the size of a block; the draws are the same",
    "retrieval: _BLOCK_SCORES: Final = [1 -> 2] << 24": "the size of a block; the scores are the same",
    "retrieval: _BLOCK_SCORES: Final = 1 << [24 -> 25]": "the size of a block; the scores are the same",
    "retrieval: step = max([16 -> 17], _BLOCK_SCORES // len(gallery_ids_G))": "the size of a block; the scores are the same",
    "retrieval: for query in np.flatnonzero((tied_Q > 0) & (higher_Q [< -> <=] cutoff)):": "the first 0 of the tied items hold no right one, whatever their order",
    "few_shot: _COARSE_STEPS: Final = [500 -> 501]": "a limit; no test fixes the number",
    "probe_solver: norm_P = np.sqrt((values ** 2).reshape(len(values), -[1 -> 2]).sum(axis=1))": "numpy works out any negative size",
    "group_tasks: needed[cue.group] = max(needed.get(cue.group, [0 -> 1]), cue.candidates)": "a group that counts has a right image and a wrong one",
    "references: MAX_GALLERY: Final = [10000 -> 10001]": "a limit; no test fixes the number",
}
