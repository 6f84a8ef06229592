"""New rows from the tokens' own vectors, mapped into the model's space through the lexicon.

Shapes: M new tokens, V old tokens, N tokens with a vector, K dimensions of the vectors, D hidden size.
"""

from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prealign_cpt.align.init.anchors import Anchors, find_anchors, mean_rows, mean_vectors
from prealign_cpt.align.init.lexicon import check_lexicon
from prealign_cpt.align.init.procrustes import fit_map
from prealign_cpt.align.init.statistics import TextStatistics
from prealign_cpt.align.init.vectors import TokenVectors
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.tokens import num_ids


@dataclass(frozen=True)
class Vecmap:
    """In the style of Chronopoulou et al. (2103.10531, section 3.2): subword vectors of the corpus, mapped.

    The original trains fastText for both languages, maps them onto each other through identical strings and starts a
    new model from both; here the English side is the trained model's own rows, which stay as they are, and the map is
    fitted on lexicon pairs.
    """

    vectors: TokenVectors
    anchors: Anchors
    first_new: int

    @property
    def covered(self) -> Tensor:
        """int64: which new tokens, counted from the first, have a vector."""
        return self.vectors.ids[self._new] - self.first_new

    def rows(self, table_VD: Tensor) -> Tensor:
        """Rows of the covered tokens for one table, of the old rows' mean norm, fp32 [covered, D]."""
        x_PK = mean_vectors(self.anchors.targets, self.vectors)
        mapped = fit_map(x_PK, mean_rows(self.anchors.sources, table_VD), self.anchors.weights)
        return scaled_to(mapped(self.vectors.vectors_NK[self._new]), table_VD)

    @property
    def _new(self) -> Tensor:
        return self.vectors.ids >= self.first_new


def make_vecmap(
    base_tokenizer: PreTrainedTokenizerBase,
    grown_tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    statistics: TextStatistics,
) -> Vecmap:
    """Token vectors of the target text, and the lexicon pairs that occur in it.

    Raises:
        DataError: the text is too small, or too few lexicon pairs occur in it.
    """
    check_lexicon(pairs, statistics)
    vectors = statistics.target_vectors(grown_tokenizer)
    return Vecmap(vectors, find_anchors(pairs, base_tokenizer, grown_tokenizer, vectors), num_ids(base_tokenizer))


def scaled_to(rows_MD: Tensor, table_VD: Tensor) -> Tensor:
    """Each row with the mean norm of the table's rows; a row of zeros stays."""
    wanted = table_VD.norm(dim=1).mean()
    return rows_MD * (wanted / rows_MD.norm(dim=1, keepdim=True).clamp(min=1e-12))
