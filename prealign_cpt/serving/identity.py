"""Which model stands behind an address? Told by the digest in the name that `prealign serve` gives it.

    url, folder --/v1/models--> name to ask for, whether it is pinned, longest sequence

A pinned name holds the digest of the folder (folder.py), so a server that is exchanged under way refuses it.
"""

from pathlib import Path

from prealign_cpt.run.errors import DataError
from prealign_cpt.serving import client
from prealign_cpt.serving.folder import DIGEST_LENGTH, model_digest, pinned_digest


def identify(base_url: str, folder: Path, *, key: str | None = None) -> tuple[str, bool, int]:
    """Whether the server's model is `folder`'s, by the digest in the pinned name that `prealign serve` gives.

    Returns:
        the name to ask for, which no other model answers to if it is pinned; whether it is; the longest sequence.

    Raises:
        DataError: the server holds another model, or several and none with a digest.
        UnavailableError: the server does not answer.
    """
    served = client.models(base_url, key=key)
    expected = model_digest(folder)[:DIGEST_LENGTH]
    pinned = {str(model["id"]): pinned_digest(str(model["id"])) for model in served}
    digests = {digest for digest in pinned.values() if digest}
    if digests and expected not in digests:
        raise DataError(
            f"{base_url}: serves {', '.join(sorted(pinned))}, but the folder {folder} has the digest {expected}; "
            "another model stands behind this address: serve this folder, or name the one that is served"
        )
    if not digests and len(served) != 1:
        raise DataError(f"{base_url}: serves {len(served)} models, parity is checked for one; serve the folder alone")
    names = [name for name, digest in pinned.items() if digest == expected] or list(pinned)
    length = next(int(model.get("max_model_len") or 2**31) for model in served if model["id"] == names[0])
    return names[0], bool(digests), length
