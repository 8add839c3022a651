"""Triton kernels of HN-NCE; `hn_nce_fused` launches them. No logit leaves the registers of the program that computes
it.

A feature is stored as two fp16 numbers, `high + low = FEATURE_SCALE * x`, and a product of two takes three of 16 bits,
high x high, high x low and low x high, summed in fp32: the error is that of fp32 (Ootomo and Yokota, arXiv 2203.03341),
at the rate of 16-bit tensor cores. The scale keeps the low part of unit features far from fp16's smallest numbers.

Nothing is added atomically, so results do not depend on which program ends first. Both passes mask alike: a pair is its
own positive, pairs of one caption are no negatives of each other, rows and columns from the number of pairs on do not
exist.

Offsets are of 32 bits: N (all pairs) times the width stays below 2^30, a million pairs of width 1,000.
"""

from __future__ import annotations

import triton
import triton.language as tl

FEATURE_SCALE = tl.constexpr(2.0**8)  # |x| < 255 is finite in fp16
LOWEST = tl.constexpr(-3.4028234663852886e38)  # a peak of nothing: keeps differences free of NaN

# Rows of what `terms` makes of each pair and direction.
PEAK, HARD, WEIGHT, SHARE, LOSS, TOP1, HARDEST = (tl.constexpr(row) for row in range(7))
NUM_TERMS = 7


@triton.jit
def split(features_ptr, halves_ptr, num_rows, WIDTH: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    """(num_rows, WIDTH) features to (2, num_rows, STRIDE): their high and their low parts, zeros behind the width."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, column = at // STRIDE, at % STRIDE
    mask = row < num_rows
    feature = tl.load(features_ptr + row * WIDTH + column, mask=mask & (column < WIDTH), other=0.0)
    scaled = feature.to(tl.float32) * FEATURE_SCALE
    high = scaled.to(tl.float16)
    tl.store(halves_ptr + at, high, mask=mask)
    tl.store(halves_ptr + num_rows * STRIDE + at, (scaled - high.to(tl.float32)).to(tl.float16), mask=mask)


@triton.jit
def _half(
    halves,
    half,
    row,
    at,
    num_rows,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    DESCRIBED: tl.constexpr,
):
    """A block of the high (0) or the low (1) parts, which begins at `row` and `at`; zeros behind the ends."""
    if DESCRIBED:
        block = halves.load([half, row, at]).reshape(ROWS, DEPTH)
    else:
        rows, columns = row + tl.arange(0, ROWS), at + tl.arange(0, DEPTH)
        mask = (rows < num_rows)[:, None] & (columns < STRIDE)[None, :]
        block = tl.load(halves + (half * num_rows + rows)[:, None] * STRIDE + columns[None, :], mask=mask, other=0.0)
    return block


@triton.jit
def _cosines(
    rows,
    columns,
    row,
    column,
    num_rows,
    num_columns,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    DESCRIBED: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """Products of a block of rows with a block of columns, which begin at `row` and `column`.

    Both passes add up the large products by themselves and in one order, so that their logits agree: gradients are sums
    of exponentials of one that were normalised in the other. Unless CHAINED, each of the small ones has a sum of its
    own, too: where a dot feeds the next one, Triton gives all warps to the rows, and eight of them need 128 rows.
    """
    high_high = tl.zeros((ROWS, COLUMNS), tl.float32)
    low_high, high_low = tl.zeros_like(high_high), tl.zeros_like(high_high)
    for at in range(0, STRIDE, DEPTH):
        high = _half(rows, 0, row, at, num_rows, STRIDE, ROWS, DEPTH, DESCRIBED)
        low = _half(rows, 1, row, at, num_rows, STRIDE, ROWS, DEPTH, DESCRIBED)
        other_high = _half(columns, 0, column, at, num_columns, STRIDE, COLUMNS, DEPTH, DESCRIBED).T
        other_low = _half(columns, 1, column, at, num_columns, STRIDE, COLUMNS, DEPTH, DESCRIBED).T
        if CHAINED:
            low_high = tl.dot(low, other_high, low_high)
            low_high = tl.dot(high, other_low, low_high)
        else:
            low_high = tl.dot(low, other_high, low_high)
            high_low = tl.dot(high, other_low, high_low)
        high_high = tl.dot(high, other_high, high_high)
    return (high_high + (low_high + high_low)) * (1 / (FEATURE_SCALE * FEATURE_SCALE))


@triton.jit
def _pairs(row, column, first_row, first_column, num_rows, num_columns, ids_ptr, MASKED: tl.constexpr):
    """Which of a block's cells are positives, and which hold two pairs of one caption, positives included."""
    inside = (row < num_rows)[:, None] & (column < num_columns)[None, :]
    positive = inside & ((first_row + row)[:, None] == (first_column + column)[None, :])
    if MASKED:
        row_id = tl.load(ids_ptr + first_row + row, mask=row < num_rows)
        column_id = tl.load(ids_ptr + first_column + column, mask=column < num_columns)
        same = inside & (row_id[:, None] == column_id[None, :])
    else:
        same = positive
    return inside, positive, same


@triton.jit
def _sums(z, peak, beta, AXIS: tl.constexpr, WEIGHTED: tl.constexpr):
    """Of the negatives of rows (axis 1) or columns (axis 0), relative to their peak: `hn_nce.NegativeSums`."""
    below = z - tl.expand_dims(peak, AXIS)
    hard = tl.sum(tl.exp((1 + beta) * below), AXIS)
    return hard, tl.sum(tl.exp(beta * below), AXIS) if WEIGHTED else tl.zeros_like(hard)


@triton.jit
def first_pass(
    images,
    texts,
    scale_ptr,
    ids_ptr,
    row_sums_ptr,
    column_sums_ptr,
    pairs_ptr,
    first,
    num_images,
    num_texts,
    shares,
    beta,
    STRIDE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    DESCRIBED: tl.constexpr,
):
    """Compare a block of images with a share of the texts.

    Args:
        images, texts: high and low parts, (2, num_images, STRIDE) and (2, num_texts, STRIDE): where DESCRIBED,
            descriptors with blocks of (1, ROWS, DEPTH) and (1, COLUMNS, DEPTH), else pointers.
        row_sums_ptr: peak, hard, weight and pairs of the same caption of each image, (shares, 4, num_images).
        column_sums_ptr: peak, hard and weight of each text, (row blocks, 3, num_texts).
        pairs_ptr: logit of each image's own text, (num_images, 2), in the first column.
        first: number of the first image's pair.
    """
    block, share = tl.program_id(0), tl.program_id(1)
    row = block * ROWS + tl.arange(0, ROWS)
    scale = tl.load(scale_ptr)
    peak = tl.full((ROWS,), LOWEST, tl.float32)
    hard, weight, alike = tl.zeros_like(peak), tl.zeros_like(peak), tl.zeros_like(peak)
    per_share = tl.cdiv(tl.cdiv(num_texts, COLUMNS), shares) * COLUMNS
    for start in range(share * per_share, min((share + 1) * per_share, num_texts), COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        z = scale * _cosines(
            images, texts, block * ROWS, start, num_images, num_texts, STRIDE, ROWS, COLUMNS, DEPTH, DESCRIBED, True
        )
        inside, positive, same = _pairs(row, column, first, 0, num_images, num_texts, ids_ptr, MASKED)
        own = first + row
        tl.store(
            pairs_ptr + 2 * row,
            tl.sum(tl.where(positive, z, 0.0), 1),
            mask=(row < num_images) & (own >= start) & (own < start + COLUMNS),
        )
        z = tl.where(inside & (same == 0), z, float("-inf"))

        top = tl.maximum(peak, tl.max(z, 1))
        more_hard, more_weight = _sums(z, top, beta, 1, WEIGHTED)
        hard = hard * tl.exp((1 + beta) * (peak - top)) + more_hard
        if WEIGHTED:
            weight = weight * tl.exp(beta * (peak - top)) + more_weight
        peak = top
        if MASKED:
            alike += tl.sum(same.to(tl.float32), 1)

        column_peak = tl.maximum(tl.max(z, 0), LOWEST)
        column_hard, column_weight = _sums(z, column_peak, beta, 0, WEIGHTED)
        column_ptr = column_sums_ptr + block * 3 * num_texts + column
        tl.store(column_ptr, column_peak, mask=column < num_texts)
        tl.store(column_ptr + num_texts, column_hard, mask=column < num_texts)
        tl.store(column_ptr + 2 * num_texts, column_weight, mask=column < num_texts)
    row_ptr = row_sums_ptr + share * 4 * num_images + row
    tl.store(row_ptr, peak, mask=row < num_images)
    tl.store(row_ptr + num_images, hard, mask=row < num_images)
    tl.store(row_ptr + 2 * num_images, weight, mask=row < num_images)
    tl.store(row_ptr + 3 * num_images, alike, mask=row < num_images)


@triton.jit
def rebase(parts_ptr, sums_ptr, length, num_parts, beta, BLOCK: tl.constexpr):
    """Add up parts, (num_parts, 3, length), relative to the peaks in the first row of the sums, (3, length)."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < length
    peak = tl.load(sums_ptr + at, mask=mask)
    hard, weight = tl.zeros_like(peak), tl.zeros_like(peak)
    for part in range(num_parts):
        part_ptr = parts_ptr + part * 3 * length + at
        drop = tl.load(part_ptr, mask=mask) - peak
        hard += tl.load(part_ptr + length, mask=mask) * tl.exp((1 + beta) * drop)
        weight += tl.load(part_ptr + 2 * length, mask=mask) * tl.exp(beta * drop)
    tl.store(sums_ptr + length + at, hard, mask=mask)
    tl.store(sums_ptr + 2 * length + at, weight, mask=mask)


@triton.jit
def terms(
    parts_ptr,
    pairs_ptr,
    terms_ptr,
    most_ptr,
    length,
    num_parts,
    num_pairs,
    beta,
    log_alpha,
    hard_factor,
    weight_factor,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    OF_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Close the sums of rows or columns, (num_parts, 4 or 3, length), into losses and what their gradients need.

    Each program also writes the largest d loss / d z of its pairs' positives.
    Those of rows also write how many negatives a pair has, into the second column of `pairs_ptr`, (length, 2).
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < length
    peak = tl.full((BLOCK,), LOWEST, tl.float32)
    hard, weight, alike = tl.zeros_like(peak), tl.zeros_like(peak), tl.zeros_like(peak)
    for part in range(num_parts):
        part_ptr = parts_ptr + part * (4 if OF_ROWS else 3) * length + at
        part_peak = tl.load(part_ptr, mask=mask, other=LOWEST)
        top = tl.maximum(peak, part_peak)
        old, new = peak - top, part_peak - top
        part_hard = tl.load(part_ptr + length, mask=mask, other=0.0)
        part_weight = tl.load(part_ptr + 2 * length, mask=mask, other=0.0)
        hard = hard * tl.exp((1 + beta) * old) + part_hard * tl.exp((1 + beta) * new)
        weight = weight * tl.exp(beta * old) + part_weight * tl.exp(beta * new)
        peak = top
        if OF_ROWS and MASKED:
            alike += tl.load(part_ptr + 3 * length, mask=mask, other=0.0)
    positive = tl.load(pairs_ptr + 2 * at, mask=mask, other=0.0)
    if OF_ROWS:
        negatives = num_pairs - alike if MASKED else tl.full((BLOCK,), num_pairs - 1, tl.float32)
        tl.store(pairs_ptr + 2 * at + 1, negatives, mask=mask)
    else:
        negatives = tl.load(pairs_ptr + 2 * at + 1, mask=mask, other=0.0)

    some = negatives > 0
    base, hard = tl.where(some, peak, 0.0), tl.where(some, hard, 1.0)
    log_mass, hardest = base + tl.log(hard), tl.full((BLOCK,), 1.0, tl.float32)
    if WEIGHTED:
        weight = tl.where(some, weight, 1.0)
        log_mass += tl.log(tl.where(some, negatives, 1.0)) - tl.log(weight)
        hardest = negatives / weight
    margin = log_mass - positive
    small = tl.exp(-tl.abs(margin - log_alpha))
    above = 1 + small  # log(1 + small) without the loss of its last digits
    log_above = tl.where(above == 1, small, tl.log(above) * small / tl.where(above == 1, 1.0, above - 1))
    loss = tl.maximum(margin, log_alpha) + log_above
    share = tl.where(some, 1 / (1 + tl.exp(log_alpha - margin)), 0.0)
    out_ptr = terms_ptr + at
    tl.store(out_ptr + PEAK * length, base, mask=mask)
    tl.store(out_ptr + HARD * length, hard_factor * share / hard, mask=mask)
    tl.store(out_ptr + WEIGHT * length, weight_factor * share / weight if WEIGHTED else hard * 0, mask=mask)
    tl.store(out_ptr + SHARE * length, share, mask=mask)
    tl.store(most_ptr + tl.program_id(0), tl.max(tl.where(mask, share, 0.0), 0))
    tl.store(out_ptr + LOSS * length, tl.where(some, loss, 0.0), mask=mask)
    tl.store(out_ptr + TOP1 * length, (positive > peak).to(tl.float32), mask=mask)
    tl.store(out_ptr + HARDEST * length, hardest, mask=mask)


@triton.jit
def means(row_terms_ptr, column_terms_ptr, means_ptr, first, num_rows, num_columns, BLOCK: tl.constexpr):
    """This rank's share of the means over all pairs: loss, top-1 of both directions, weight of the hardest negative."""
    loss, image_top1 = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    text_top1, hardest = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(0, num_rows, BLOCK):
        at = start + tl.arange(0, BLOCK)
        mask = at < num_rows
        row_ptr, column_ptr = row_terms_ptr + at, column_terms_ptr + first + at
        loss += tl.load(row_ptr + LOSS * num_rows, mask=mask, other=0.0)
        loss += tl.load(column_ptr + LOSS * num_columns, mask=mask, other=0.0)
        image_top1 += tl.load(row_ptr + TOP1 * num_rows, mask=mask, other=0.0)
        text_top1 += tl.load(column_ptr + TOP1 * num_columns, mask=mask, other=0.0)
        hardest += tl.load(row_ptr + HARDEST * num_rows, mask=mask, other=0.0)
        hardest += tl.load(column_ptr + HARDEST * num_columns, mask=mask, other=0.0)
    tl.store(means_ptr, tl.sum(loss, 0) / (2 * num_columns))
    tl.store(means_ptr + 1, tl.sum(image_top1, 0) / num_columns)
    tl.store(means_ptr + 2, tl.sum(text_top1, 0) / num_columns)
    tl.store(means_ptr + 3, tl.sum(hardest, 0) / (2 * num_columns))


@triton.jit
def _of_direction(z, terms_ptr, at, length, beta, AXIS: tl.constexpr, WEIGHTED: tl.constexpr):
    """The loss by the logits of the negatives, of rows (axis 1) or columns (axis 0)."""
    below = z - tl.expand_dims(tl.load(terms_ptr + PEAK * length + at, mask=at < length, other=0.0), AXIS)
    hard = tl.load(terms_ptr + HARD * length + at, mask=at < length, other=0.0)
    gradient = tl.exp((1 + beta) * below) * tl.expand_dims(hard, AXIS)
    if WEIGHTED:
        weight = tl.load(terms_ptr + WEIGHT * length + at, mask=at < length, other=0.0)
        gradient -= tl.exp(beta * below) * tl.expand_dims(weight, AXIS)
    return gradient


@triton.jit
def second_pass(
    rows,
    columns,
    scale_ptr,
    ids_ptr,
    row_terms_ptr,
    column_terms_ptr,
    column_most_ptr,
    loss_gradient_ptr,
    gradient_ptr,
    scale_gradient_ptr,
    first_row,
    first_column,
    num_rows,
    num_columns,
    shares,
    beta,
    mean,
    num_most,
    WIDTH: tl.constexpr,
    STRIDE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    OF_SCALE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    CHUNKS: tl.constexpr,
    DESCRIBED: tl.constexpr,
    MOST: tl.constexpr,
):
    """Gradient of a block of one side's features, from a share of the other side; images and texts are rows in turn.

    Args:
        rows, columns: as images and texts in `first_pass`.
        gradient_ptr: (shares, num_rows, WIDTH); a program writes CHUNKS x DEPTH of its columns.
        scale_gradient_ptr: (row blocks x shares), where OF_SCALE.
        first_row, first_column: number of either side's first pair.
        column_most_ptr: what `terms` found to be the most in the columns, (num_most), no more than MOST.
        mean: what a pair of the batch counts.
    """
    block, share, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row = block * ROWS + tl.arange(0, ROWS)
    scale = tl.load(scale_ptr)
    row_share = tl.load(row_terms_ptr + SHARE * num_rows + row, mask=row < num_rows, other=0.0)
    of_scale = tl.zeros((ROWS,), tl.float32)
    # d loss / d z is held in fp16, times a power of two that brings its bound below 2^15
    slot = tl.arange(0, MOST)
    most = tl.max(tl.load(column_most_ptr + slot, mask=slot < num_most, other=0.0), 0) + tl.max(row_share, 0)
    gradient_scale = tl.exp2(15 - tl.ceil(tl.log2(tl.maximum(most * (1 + beta), 1e-30))))
    gradients = ()
    for _ in tl.static_range(CHUNKS):
        gradients = gradients + (tl.zeros((ROWS, DEPTH), tl.float32),)
    per_share = tl.cdiv(tl.cdiv(num_columns, COLUMNS), shares) * COLUMNS
    for start in range(share * per_share, min((share + 1) * per_share, num_columns), COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        cosine = _cosines(
            rows, columns, block * ROWS, start, num_rows, num_columns, STRIDE, ROWS, COLUMNS, DEPTH, DESCRIBED, False
        )
        inside, positive, same = _pairs(row, column, first_row, first_column, num_rows, num_columns, ids_ptr, MASKED)
        z = scale * cosine
        by_logit = _of_direction(z, row_terms_ptr, row, num_rows, beta, 1, WEIGHTED)
        by_logit += _of_direction(z, column_terms_ptr, column, num_columns, beta, 0, WEIGHTED)
        column_share = tl.load(column_terms_ptr + SHARE * num_columns + column, mask=column < num_columns, other=0.0)
        by_logit = tl.where(inside & (same == 0), by_logit, 0.0)
        by_logit = tl.where(positive, -(row_share[:, None] + column_share[None, :]), by_logit)
        if OF_SCALE:
            of_scale += tl.sum(by_logit * cosine, 1)
        by_logit *= gradient_scale
        high = by_logit.to(tl.float16)
        low = (by_logit - high.to(tl.float32)).to(tl.float16)
        for term in range(3):  # a loop, so that Triton prefetches for it; unrolled, the dots would be chained
            left = tl.where(term == 0, low, high)
            half = tl.where(term == 1, 1, 0)
            added = ()
            for chunk in tl.static_range(CHUNKS):
                at = (part * CHUNKS + chunk) * DEPTH
                right = _half(columns, half, start, at, num_columns, STRIDE, COLUMNS, DEPTH, DESCRIBED)
                added = added + (tl.dot(left, right, gradients[chunk]),)
            gradients = added
    mean *= tl.load(loss_gradient_ptr)
    if OF_SCALE:
        if part == 0:
            tl.store(scale_gradient_ptr + block * shares + share, mean * tl.sum(of_scale, 0))
    mean *= scale / (gradient_scale * FEATURE_SCALE)
    for chunk in tl.static_range(CHUNKS):
        at = (part * CHUNKS + chunk) * DEPTH + tl.arange(0, DEPTH)
        mask = (row < num_rows)[:, None] & (at < WIDTH)[None, :]
        out_ptr = gradient_ptr + share * num_rows * WIDTH + row[:, None] * WIDTH + at[None, :]
        tl.store(out_ptr, gradients[chunk] * mean, mask=mask)
