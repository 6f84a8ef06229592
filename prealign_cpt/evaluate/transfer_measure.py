"""Zero-shot transfer as a measure: English labels only, tested on the target language (see transfer.py)."""

from prealign_cpt.evaluate.figures import Figure, Result, share
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.transfer import transfer_hits
from prealign_cpt.evaluate.work import Work


def measure(subject: Subject, work: Work) -> Result:
    """`acc_english`, `acc_target`, `gap`, `relative` (acc_target / acc_english), `acc_shuffled` (the control: labels
    shuffled before training; near `chance`) and `chance` (the most frequent label).

    Raises:
        NoDataError: no labelled texts.
        DataError: too few of them; see `zero_shot_transfer`.
    """
    english, target = (work.sample(texts) for texts in work.classes())
    found, hits = transfer_hits(subject.model, subject.tokenizer, english, target, subject.start_token_id, work.seed)
    n = found.target_texts
    acc_english = share(
        hits.english.numpy(), f"held out; logistic regression on layer {found.layer}, chosen on English"
    )
    acc_target = share(hits.target.numpy(), f"layer {found.layer}; trained on English alone")
    result: Result = {
        "acc_english": acc_english,
        "acc_target": acc_target,
        "gap": Figure(acc_english.value - acc_target.value, n=n, note="acc_english - acc_target"),
        "acc_shuffled": share(hits.shuffled.numpy(), "control: labels shuffled before training; near chance"),
        "chance": Figure(found.chance, n=n, note="share of the most frequent label"),
    }
    if acc_english.value:
        result["relative"] = Figure(acc_target.value / acc_english.value, n=n, note="acc_target / acc_english")
    return result
