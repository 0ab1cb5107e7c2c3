"""A plain lexical embedding for ApproxOpt, so that what `paced` is compared with does not move with its own embedder.

Hashed word 1–2-grams and character 3–4-grams within words (2¹⁷ each) and 1–2-grams of CJK characters (2¹⁶);
log(1 + tf) · ln(n / df). Features in fewer than two or over 60 % of the history dropped; unit rows before and after a
truncated singular value decomposition to 256 dimensions.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize

from benchmarks.traces import load_trace
from policies.replay import Rows
from policies.types import Float32

DIMENSIONS = 256
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


def lexical(name: str, history: Rows) -> Float32:
    """(N, 256) unit rows of a trace, fitted on its history rows."""
    counts = _counts(name)
    documents = np.asarray((counts[history] > 0).sum(axis=0)).ravel()
    kept = (documents >= 2) & (documents <= 0.6 * len(history))
    weighted = normalize(counts[:, kept] @ sparse.diags(np.log(len(history) / documents[kept])))
    reduced = TruncatedSVD(DIMENSIONS, random_state=0).fit(weighted[history]).transform(weighted)
    return np.asarray(normalize(reduced), np.float32)


@cache
def _counts(name: str) -> sparse.csr_matrix:
    """(N, 5 · 2¹⁶) log(1 + count) of each feature."""
    texts = load_trace(name).prompts
    parts = [
        _hashed(texts, analyzer="word", ngram_range=(1, 2), n_features=2**17),
        _hashed(texts, analyzer="char_wb", ngram_range=(3, 4), n_features=2**17),
        _hashed(texts, analyzer="char", ngram_range=(1, 2), n_features=2**16, preprocessor=_only_cjk),
    ]
    counts = sparse.hstack(parts).tocsr()
    counts.data = np.log1p(counts.data)
    return counts


def _hashed(texts: list[str], **settings: object) -> sparse.csr_matrix:
    return HashingVectorizer(norm=None, alternate_sign=False, **settings).transform(texts)


def _only_cjk(text: str) -> str:
    return "".join(_CJK.findall(text))
