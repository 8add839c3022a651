"""References on the text's side: ridge regression from a caption to the features of its image by a strong encoder. Pure.

The plain one goes from words. The strong one is what a training may start as (`train.textStart: Ridge`): from CLIP's tokens to
whitened features, in which no few directions outweigh the others, with the encoder's class names as further captions. A text
tower trained on the same features should be above both.

Shapes: N training pairs, M test images, T test captions, J classes, D features, V words or tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diht_k8s.stages.evaluate.retrieval import retrieval
from diht_k8s.stages.evaluate.ridge import RidgeReference, unit

PENALTY: Final = 2.0
"""Of words, for texts of unit length (our choice)."""
MOST_WORDS: Final = 8192
"""The commonest ones that count: the system to solve is this large at most (512 MiB)."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TextRidge:
    """A regression from a caption to the features of its image."""

    texts: Callable[[Sequence[str]], Array]
    """captions -> [T, D] where they lie."""
    images: Callable[[NDArray[np.floating]], Array]
    """features [M, D] -> where the images lie."""
    pairs: int
    terms: int
    """V."""
    penalty: float

    def reference(
        self,
        features_MD: NDArray[np.floating],
        captions_T: Sequence[str],
        image_of_text_T: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> RidgeReference:
        """Retrieve among test pairs by the cosine of predicted and real features.

        Args:
            features_MD: features of the test images.
            captions_T: their captions.
            image_of_text_T: index of each caption's image.
            rng: draws of the bootstrap.
        """
        figures = retrieval(unit(self.images(features_MD)), unit(self.texts(captions_T)), image_of_text_T, rng)
        return RidgeReference(figures, pairs=self.pairs, words=self.terms, alpha=self.penalty)


def ridge_from_words(features_ND: NDArray[np.floating], captions_N: Sequence[str]) -> TextRidge:
    """TF-IDF words to the features less their mean.

    Args:
        features_ND: features of the training images.
        captions_N: their captions.
    """
    from scipy.linalg import solve
    from sklearn.feature_extraction.text import TfidfVectorizer

    centre_D = features_ND.mean(axis=0, dtype=np.float64)
    vectorizer: Any = TfidfVectorizer(sublinear_tf=True, dtype=np.float64, max_features=MOST_WORDS)
    texts_NV: Any = vectorizer.fit_transform(captions_N)  # a scipy sparse matrix
    gram_VV = (texts_NV.T @ texts_NV).toarray()
    gram_VV.flat[:: len(gram_VV) + 1] += PENALTY
    weights_VD = solve(gram_VV, texts_NV.T @ (features_ND - centre_D), assume_a="pos", overwrite_a=True)
    return TextRidge(
        lambda captions: vectorizer.transform(captions) @ weights_VD,
        lambda features_MD: features_MD - centre_D,
        len(captions_N),
        len(weights_VD),
        PENALTY,
    )


def ridge_from_tokens(
    features_ND: NDArray[np.floating], captions_N: Sequence[str], classes: tuple[Sequence[str], Array] | None = None
) -> TextRidge:
    """CLIP's tokens to whitened features.

    Args:
        features_ND: features of the training images.
        captions_N: their captions.
        classes: names of the encoder's own classes, and its classifier's weights JxD; None where it has none.
    """
    from open_clip.tokenizer import SimpleTokenizer

    from diht_k8s.stages.train.model import token_ridge

    tokenizer = SimpleTokenizer()

    def tokens(captions: Sequence[str]) -> NDArray[np.int64]:
        return tokenizer(list(captions)).numpy()

    def counts(tokens_NT: NDArray[np.int64]) -> Any:
        return token_ridge.caption_counts(tokens_NT, tokens_V, tokenizer.vocab_size)

    captions_NT, names_JT = tokens(captions_N), tokens(classes[0]) if classes is not None else None
    said = captions_NT if names_JT is None else np.concatenate([captions_NT, names_JT])
    tokens_V = token_ridge.commonest_tokens(token_ridge.word_frequencies(said, tokenizer.vocab_size))
    named = None if classes is None or names_JT is None else token_ridge.ClassCaptions(counts(names_JT), classes[1])
    sums = token_ridge.pair_sums(counts(captions_NT), features_ND)
    ridge = token_ridge.ridge(sums, features_ND.shape[1], bias=True, classes=named)
    bias_D = ridge.bias_D
    assert bias_D is not None, "asked for"
    return TextRidge(
        lambda captions: counts(tokens(captions)) @ ridge.words_VD,
        lambda features_MD: features_MD @ ridge.projection_DF.T + bias_D,
        len(captions_N),
        len(tokens_V),
        token_ridge.PENALTY,
    )
