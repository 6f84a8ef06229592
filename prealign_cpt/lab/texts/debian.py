"""Larger text for a target language and English, from Debian packages, where `apt-get` and `dpkg-deb` are at hand.

    apt-get download --> dpkg-deb -x --> paragraphs (see `prose`) --> {target,english}.{train,...}.txt

About half of it explains software; fortunes, the anarchism FAQ and WordNet's glosses are the general-language part.
A document is a file (or one fortune, or one gloss), its paragraphs one a line; a blank line parts documents. Held out
are whole packages: the Debian FAQ for validation, the GNOME user guides for test. Debian's archive signs what apt
brings, so no hash is pinned here; the manifest records the versions that came.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from prealign_cpt.lab.texts.prose import Documents, keep_paragraphs, read_fortunes, read_glosses, read_man, read_markup
from prealign_cpt.run import manifest
from prealign_cpt.run.cache import locked
from prealign_cpt.run.errors import DataError, RecipeError, UnavailableError


def fetch_debian(code: str) -> Path:
    """The folder `<cache>/debian-<code>` with `{target,english}.{train,valid,test}.txt`, made if it is not there.

    Args:
        code: language of the target: "de" or "ru".

    Raises:
        RecipeError: no packages are listed for this code.
        UnavailableError: not a Debian system, or apt cannot download.
        DataError: the published folder is damaged, or the packages hold no text for a split.
    """
    codes = sorted(set(SOURCES) - {"en"})
    if code not in codes:
        raise RecipeError(f"language {code!r}: no Debian packages are listed for it; choose one of {', '.join(codes)}")
    with locked(f"debian-{code}") as cache:
        target = cache / f"debian-{code}"
        if target.exists():
            manifest.verify(target)
            return target
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise UnavailableError(
                    f"{tool} is not there: the larger text needs Debian or Ubuntu; use the Bible text"
                )
        about: dict[str, object] = {"code": code}
        with manifest.new_folder(target, about) as folder:
            work = folder / "work"
            work.mkdir()
            sides = {"target": SOURCES[code], "english": SOURCES["en"]}
            names = sorted({name for splits in sides.values() for sources in splits.values() for name, _, _ in sources})
            about["packages"] = versions = download_packages(names, work)
            for side, splits in sides.items():
                _write_side(code if side == "target" else "en", splits, work, folder / side)
            shutil.rmtree(work)
            lines = [f"{name} {version}" for name, version in versions.items()]
            note = "Debian packages; each holds its licence in usr/share/doc/<package>/copyright.\n"
            (folder / "SOURCE.txt").write_text(note + "\n".join(lines) + "\n", encoding="utf-8")
    return target


def download_packages(names: list[str], folder: Path) -> dict[str, str]:
    """Download packages into `folder` and unpack each to `folder/<name>`; return their versions by name.

    Raises:
        UnavailableError: apt cannot find or bring one, or dpkg-deb cannot unpack it.
    """
    _run(["apt-get", "download", "-qq", *names], folder, "run 'apt-get update' as root and check the network")
    versions = {}
    for path in sorted(folder.glob("*.deb")):
        remedy = "remove the package from apt's lists and download again"
        name, version = _run(["dpkg-deb", "--show", path.name], folder, remedy).split()
        (folder / name).mkdir()
        _run(["dpkg-deb", "-x", path.name, name], folder, remedy)
        versions[name] = version
        path.unlink()
    return versions


def _run(command: list[str], folder: Path, remedy: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith("E:")), lines[-1] if lines else str(done.returncode))
        raise UnavailableError(f"{command[0]}: {reason}; {remedy}")
    return done.stdout


def _write_side(code: str, splits: dict[str, list["Source"]], work: Path, stem: Path) -> None:
    """Write one language's splits. A paragraph stands in one split only, and the held-out ones take it first."""
    seen: set[str] = set()
    for split in ("test", "valid", "train"):
        path = Path(f"{stem}.{split}.txt")
        separator = ""
        with path.open("w", encoding="utf-8") as file:
            for name, pattern, reader in splits[split]:
                for source in sorted(path for path in (work / name).glob(pattern) if not path.is_symlink()):
                    for paragraphs in reader(source) if source.is_file() else ():
                        kept = keep_paragraphs(paragraphs, code, seen)
                        if kept:
                            file.write(separator + "\n".join(kept) + "\n")
                            separator = "\n"
        if path.stat().st_size == 0:
            raise DataError(f"{path.name}: the packages hold no text for it; they changed since this was written")


Source = tuple[str, str, Callable[[Path], Documents]]
"""Package, glob inside it, reader of its files."""

SHARE = "usr/share"


def _sources(man: str, help_name: str, gnome: str, suffix: str) -> dict[str, list[Source]]:
    """What the three languages have in common, under each one's names."""
    return {
        "test": [("gnome-user-docs", f"{SHARE}/help/{gnome}/**/*.page", read_markup)],
        "valid": [(f"debian-faq{suffix}", f"{SHARE}/doc/debian/FAQ/**/*.html", read_markup)],
        "train": [
            (f"fortunes{suffix}", f"{SHARE}/games/fortunes/**/*", read_fortunes),
            (f"manpages{suffix}", f"{SHARE}/man/{man}*/*.gz", read_man),
            (f"manpages{suffix}-dev", f"{SHARE}/man/{man}*/*.gz", read_man),
            (f"libreoffice-help-{help_name}", f"{SHARE}/libreoffice/help/{help_name}/text/**/*.html", read_markup),
        ],
    }


SOURCES = {
    "de": _sources("de/man", "de", "de", "-de"),
    "ru": _sources("ru/man", "ru", "ru", "-ru"),
    "en": _sources("man", "en-us", "C", ""),
}
SOURCES["de"]["train"].append(("debian-reference-de", f"{SHARE}/debian-reference/*.html", read_markup))
SOURCES["en"]["train"] += [
    ("debian-reference-en", f"{SHARE}/debian-reference/*.html", read_markup),
    ("anarchism", f"{SHARE}/doc/anarchism/html/*.html", read_markup),
    ("wordnet-base", f"{SHARE}/wordnet/data.*", read_glosses),
]
