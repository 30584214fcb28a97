"""AudioSet's ontology: which class is a kind of which, and what a user means by a class name."""

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from shards.labels import CLASS_LABELS, ClassLabel, Labels, read_class_labels

ONTOLOGY = "ontology.json"
CLASS_LABELS_URL = f"http://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv/{CLASS_LABELS}"
ONTOLOGY_URL = f"https://raw.githubusercontent.com/audioset/ontology/master/{ONTOLOGY}"


class OntologyError(ValueError):
    """A file that is no ontology, or a class that nobody knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OntologyClass:
    """One node of the graph, with its neighbours by mid."""

    mid: str
    name: str
    description: str
    children: tuple[str, ...]
    parents: tuple[str, ...]  # several for 38 of AudioSet's 632 nodes
    restrictions: frozenset[str]  # of "abstract" (groups other classes) and "blacklist" (hard to label)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ontology:
    """A directed acyclic graph of classes, in the order of its file."""

    by_mid: Mapping[str, OntologyClass]

    @classmethod
    def from_json(cls, path: Path | str) -> Self:
        """Read `ontology.json`; OntologyError when the file is something else."""
        try:
            nodes = _nodes(_entries(path))
        except (KeyError, TypeError) as error:
            raise OntologyError(
                f"{path}: an entry lacks {error}; expected entries with id, name and child_ids as in "
                f"{ONTOLOGY_URL}"
            ) from error
        _refuse_unknown_children(nodes, path)
        _refuse_cycles(nodes, path)
        return cls(by_mid=nodes)

    def __len__(self) -> int:
        return len(self.by_mid)

    def __iter__(self) -> Iterator[OntologyClass]:
        return iter(self.by_mid.values())

    def __getitem__(self, mid: str) -> OntologyClass:
        if mid not in self.by_mid:
            raise OntologyError(f"{mid} is none of the ontology's {len(self)} classes")
        return self.by_mid[mid]

    @property
    def roots(self) -> tuple[str, ...]:
        """The mids of the classes that are a kind of nothing."""
        return tuple(node.mid for node in self if not node.parents)

    def descendants(self, mid: str) -> frozenset[str]:
        """Every class that is a kind of this one, at any depth; without the class itself."""
        return _reachable(mid, lambda node: self[node].children)

    def ancestors(self, mid: str) -> frozenset[str]:
        """Every class that this one is a kind of, at any height; without the class itself."""
        return _reachable(mid, lambda node: self[node].parents)

    def labels(self, classes: Labels | None = None) -> Labels:
        """The class table with parents: `classes` with their indices first, then every other node.

        The ontology alone gives no indices: its 632 nodes do not say which 527 label AudioSet's segments.
        """
        indexed = tuple(classes or ())
        known = {label.mid for label in indexed}
        others = (
            ClassLabel(index=None, mid=node.mid, name=node.name) for node in self if node.mid not in known
        )
        return Labels.of(self._with_parents(label) for label in (*indexed, *others))

    def _with_parents(self, label: ClassLabel) -> ClassLabel:
        parents = self.by_mid[label.mid].parents if label.mid in self.by_mid else ()
        return ClassLabel(index=label.index, mid=label.mid, name=label.name, parents=parents)


def _entries(path: Path | str) -> list[dict[str, Any]]:
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise OntologyError(f"{path}: cannot be read as an ontology: {error.strerror}") from error
    except ValueError as error:
        raise OntologyError(f"{path}: no JSON ({error}); the ontology is at {ONTOLOGY_URL}") from error
    if not isinstance(entries, list) or not entries:
        raise OntologyError(f"{path}: expected a JSON list of classes, as in {ONTOLOGY_URL}")
    return entries


def _nodes(entries: Iterable[dict[str, Any]]) -> dict[str, OntologyClass]:
    children = {entry["id"]: tuple(entry["child_ids"]) for entry in entries}
    parents = _reversed(children)
    return {
        entry["id"]: OntologyClass(
            mid=entry["id"],
            name=entry["name"],
            description=entry.get("description", ""),
            children=children[entry["id"]],
            parents=parents.get(entry["id"], ()),
            restrictions=frozenset(entry.get("restrictions", ())),
        )
        for entry in entries
    }


def _reversed(children: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    parents: dict[str, tuple[str, ...]] = {}
    for parent, mids in children.items():
        for mid in mids:
            parents[mid] = (*parents.get(mid, ()), parent)
    return parents


def _refuse_unknown_children(nodes: Mapping[str, OntologyClass], path: Path | str) -> None:
    for node in nodes.values():
        if unknown := [mid for mid in node.children if mid not in nodes]:
            raise OntologyError(
                f"{path}: {node.name} has the child {unknown[0]}, which has no entry; is the file cut?"
            )


def _refuse_cycles(nodes: Mapping[str, OntologyClass], path: Path | str) -> None:
    for node in nodes.values():
        if node.mid in _reachable(node.mid, lambda mid: nodes[mid].children):
            raise OntologyError(f"{path}: {node.name} ({node.mid}) is listed as a kind of itself")


def _reachable(mid: str, neighbours: Callable[[str], Iterable[str]]) -> frozenset[str]:
    found: set[str] = set()
    frontier = list(neighbours(mid))
    while frontier:
        node = frontier.pop()
        if node not in found:
            found.add(node)
            frontier.extend(neighbours(node))
    return frozenset(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFilter:
    """Which segments are wanted, by their mids."""

    include: frozenset[str] | None = None  # None: all
    exclude: frozenset[str] = frozenset()

    def accepts(self, mids: Collection[str]) -> bool:
        """Whether a segment with these labels has an included one and no excluded one."""
        included = self.include is None or not self.include.isdisjoint(mids)
        return included and self.exclude.isdisjoint(mids)


def label_filter(
    classes: Ontology | Labels, include: str = "", exclude: str = "", *, exact: bool = False
) -> LabelFilter:
    """The filter that a user's strings ask for; a class stands for its descendants too unless `exact`.

    `"Dog,/m/03kmc9"`: names in any case, or mids, separated by `,` or `;`; an empty string asks for nothing.
    Class names hold commas themselves ("Male speech, man speaking"), so the longest run of comma-separated
    parts that is a known name is taken as that name. OntologyError, with the nearest names, for a class that
    is not known.
    """
    return LabelFilter(
        include=_meant(include, classes, exact) if include else None,
        exclude=_meant(exclude, classes, exact) if exclude else frozenset(),
    )


def _meant(text: str, classes: Ontology | Labels, exact: bool) -> frozenset[str]:
    mids = parse_classes(text, classes)
    if exact:
        return frozenset(mids)
    if isinstance(classes, Labels):
        raise OntologyError(
            f"{text!r}: what is a kind of these classes stands in {ONTOLOGY}, which was not found; get it "
            f"from {ONTOLOGY_URL} and name it with --ontology, or take these classes alone with --exact"
        )
    return frozenset(mids).union(*(classes.descendants(mid) for mid in mids))


def parse_classes(text: str, classes: Ontology | Labels) -> tuple[str, ...]:
    """The mids of the classes that `text` names, in its order."""
    known = {_folded(label.name): label.mid for label in classes}
    known.update((label.mid, label.mid) for label in classes)
    mids = [mid for group in text.split(";") for mid in _parse_group(group.split(","), known, classes)]
    if not mids:
        raise OntologyError(f"{text!r} names no class; expected names or mids like 'Dog,/m/03kmc9'")
    return tuple(dict.fromkeys(mids))


def _parse_group(parts: Sequence[str], known: Mapping[str, str], classes: Ontology | Labels) -> Iterator[str]:
    begin = 0
    while begin < len(parts):
        if not _folded(parts[begin]):
            begin += 1
            continue
        end = _longest_name(parts, begin, known)
        if end is None:
            raise _unknown_class(parts[begin], classes)
        yield known[_folded(",".join(parts[begin:end]))]
        begin = end


def _longest_name(parts: Sequence[str], begin: int, known: Mapping[str, str]) -> int | None:
    longest = max(name.count(",") for name in known) + 1
    ends = range(min(begin + longest, len(parts)), begin, -1)
    return next((end for end in ends if _folded(",".join(parts[begin:end])) in known), None)


def _folded(name: str) -> str:
    """A name without what people type differently: case, blanks, quotes, typographic apostrophes."""
    words = name.replace('"', " ").replace("’", "'").casefold()
    return re.sub(r"\s*,\s*", ", ", " ".join(words.split()))


def _unknown_class(part: str, classes: Ontology | Labels) -> OntologyError:
    near = _similar(part, [label.name for label in classes])
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"see {CLASS_LABELS} for all names"
    return OntologyError(f"no class is called {part.strip()!r}; {hint}")


def _similar(part: str, names: Sequence[str], most: int = 4) -> list[str]:
    """Names that hold the word, then names spelled like it."""
    word = _folded(part)
    folded = {_folded(name): name for name in names}
    holding = [name for name in folded if re.search(rf"\b{re.escape(word)}\b", name)]
    spelled = difflib.get_close_matches(word, folded, n=most)
    return [folded[name] for name in dict.fromkeys((*holding, *spelled))][:most]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """Where the files lie that explain a segments file's mids; None for one that was not found."""

    folder: Path
    class_labels: Path | None
    ontology: Path | None

    def read_labels(self) -> Labels:
        """The class table, with parents where the ontology is at hand; OntologyError without either file."""
        classes = read_class_labels(self.class_labels) if self.class_labels else None
        if self.ontology:
            return Ontology.from_json(self.ontology).labels(classes)
        if classes is None:
            raise OntologyError(
                f"{self.folder}: no class names beside the segments file; get {CLASS_LABELS} from "
                f"{CLASS_LABELS_URL} and {ONTOLOGY} from {ONTOLOGY_URL}, and put them there, or name them "
                "with --class-labels and --ontology"
            )
        return classes

    def read_classes(self) -> Ontology | Labels:
        """What `label_filter` resolves names with: the ontology, else the plain class table."""
        return Ontology.from_json(self.ontology) if self.ontology else self.read_labels()


def find_metadata(
    segments: Path | str, *, class_labels: Path | None = None, ontology: Path | None = None
) -> Metadata:
    """The class table and the ontology: the files named, else those beside the segments file."""
    folder = Path(segments).absolute().parent
    return Metadata(
        folder=folder,
        class_labels=_named_or_beside(
            class_labels, folder / CLASS_LABELS, "--class-labels", CLASS_LABELS_URL
        ),
        ontology=_named_or_beside(ontology, folder / ONTOLOGY, "--ontology", ONTOLOGY_URL),
    )


def _named_or_beside(named: Path | None, beside: Path, flag: str, url: str) -> Path | None:
    if named is None:
        return beside if beside.is_file() else None
    if not named.is_file():
        raise OntologyError(f"{named}: no such file, given with {flag}; it can be had from {url}")
    return named
