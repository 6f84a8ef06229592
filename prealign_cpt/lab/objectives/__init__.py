"""What other papers do in place of PreAlign's word contrast; importing this makes `align.objective` know their names.

veco       words inside English sentences and the same sentences with the word translated (arXiv 2304.08205)
infoxlm    parallel sentences, with earlier batches as further negatives (2007.07834)
afp        parallel sentences by their last token, English ones as anchors (2311.08089)
vecmap.py  new rows from the tokens' own vectors (2103.10531), as a file for `align.init` "file"
"""

from prealign_cpt.align.stage import OBJECTIVES
from prealign_cpt.lab.objectives.contrasts import afp, infoxlm, veco

OBJECTIVES |= {"veco": veco, "infoxlm": infoxlm, "afp": afp}
