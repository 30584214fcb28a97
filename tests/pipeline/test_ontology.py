"""The ontology as a graph, and the classes that a user's words mean."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pipeline.ontology import (
    LabelFilter,
    Ontology,
    OntologyError,
    find_metadata,
    label_filter,
    parse_classes,
)
from shards.labels import ClassLabel, Labels

# Dog and Bark hang below two parents each; names hold commas, as 75 of AudioSet's do.
GRAPH = {
    "/m/animal": ("Animal", ["/m/pets", "/m/canidae"]),
    "/m/pets": ("Domestic animals, pets", ["/m/dog", "/m/cat"]),
    "/m/canidae": ("Canidae, dogs, wolves", ["/m/dog"]),
    "/m/dog": ("Dog", ["/m/bark"]),
    "/m/cat": ("Cat", []),
    "/m/bark": ("Bark", []),
    "/m/tree": ("Tree sounds", ["/m/bark"]),
    "/m/violin": ("Violin, fiddle", []),
    "/m/pop": ("Pop", []),
    "/m/burst": ("Burst, pop", []),
}


def write_ontology(path: Path, graph: Mapping[str, tuple[str, Sequence[str]]]) -> Path:
    entries = [
        {"id": mid, "name": name, "child_ids": children, "restrictions": ["abstract"] if children else []}
        for mid, (name, children) in graph.items()
    ]
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def ontology(tmp_path: Path) -> Ontology:
    return Ontology.from_json(write_ontology(tmp_path / "graph.json", GRAPH))


@pytest.fixture
def table() -> Labels:
    return Labels.of(
        ClassLabel(index=index, mid=mid, name=name) for index, (mid, (name, _)) in enumerate(GRAPH.items())
    )


def test_class_with_two_parents_is_below_both(ontology: Ontology) -> None:
    assert ontology["/m/dog"].parents == ("/m/pets", "/m/canidae")
    assert ontology.descendants("/m/canidae") == {"/m/dog", "/m/bark"}
    assert ontology.descendants("/m/animal") == {"/m/pets", "/m/canidae", "/m/dog", "/m/cat", "/m/bark"}
    assert ontology.ancestors("/m/bark") == {"/m/dog", "/m/pets", "/m/canidae", "/m/animal", "/m/tree"}


def test_leaves_have_no_descendants_and_roots_no_ancestors(ontology: Ontology) -> None:
    assert ontology.descendants("/m/cat") == frozenset()
    assert ontology.roots == ("/m/animal", "/m/tree", "/m/violin", "/m/pop", "/m/burst")
    assert ontology.ancestors("/m/animal") == frozenset()


def test_node_keeps_its_restrictions_and_an_unknown_mid_is_refused(ontology: Ontology) -> None:
    assert ontology["/m/animal"].restrictions == {"abstract"}
    assert ontology["/m/cat"].restrictions == frozenset()
    with pytest.raises(OntologyError, match="/m/unicorn is none of the ontology's 10 classes"):
        ontology.descendants("/m/unicorn")


@pytest.mark.parametrize(
    ("text", "mids"),
    [
        ("Dog", ["/m/dog"]),
        ("dOG, /m/cat", ["/m/dog", "/m/cat"]),
        ("violin,fiddle", ["/m/violin"]),
        ("Dog,Violin ,  fiddle,Cat", ["/m/dog", "/m/violin", "/m/cat"]),
        ("Burst, pop", ["/m/burst"]),  # the longest name, not an unknown "Burst" and "Pop"
        ("pop,burst,pop", ["/m/pop", "/m/burst"]),
        ("Canidae, dogs, wolves, Dog", ["/m/canidae", "/m/dog"]),
        ("Dog;Violin, fiddle; Cat;", ["/m/dog", "/m/violin", "/m/cat"]),
        ('"Violin, fiddle","Dog"', ["/m/violin", "/m/dog"]),
        ("Dog,,dog", ["/m/dog"]),
    ],
)
def test_names_with_commas_are_found_in_a_list_with_commas(
    ontology: Ontology, text: str, mids: list[str]
) -> None:
    assert list(parse_classes(text, ontology)) == mids


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("Dgo", "no class is called 'Dgo'; did you mean 'Dog'?"),
        ("Cat, violin", "no class is called 'violin'; did you mean 'Violin, fiddle'?"),
        ("/m/dgo", "no class is called '/m/dgo'"),
        ("Spaceship", "see class_labels_indices.csv for all names"),
        (" ; ,", "names no class"),
    ],
)
def test_unknown_class_is_answered_with_its_nearest_names(ontology: Ontology, text: str, hint: str) -> None:
    with pytest.raises(OntologyError) as error:
        label_filter(ontology, text)
    assert hint in str(error.value)


def test_class_stands_for_its_descendants_unless_exact(ontology: Ontology) -> None:
    assert label_filter(ontology, "Dog").include == frozenset({"/m/dog", "/m/bark"})
    assert label_filter(ontology, "Dog", exact=True).include == frozenset({"/m/dog"})


def test_excluded_class_wins_over_an_included_one(ontology: Ontology) -> None:
    wanted = label_filter(ontology, "Animal", "Tree sounds")
    assert wanted.accepts(("/m/dog", "/m/violin"))
    assert not wanted.accepts(("/m/dog", "/m/bark"))
    assert not wanted.accepts(("/m/violin",))


def test_filter_without_words_takes_everything_and_exclusion_alone_all_but_some(ontology: Ontology) -> None:
    assert label_filter(ontology) == LabelFilter()
    assert LabelFilter().accepts(())
    assert label_filter(ontology, exclude="Dog").accepts(("/m/cat",))
    assert not label_filter(ontology, exclude="Dog").accepts(("/m/cat", "/m/bark"))


def test_class_table_alone_resolves_exact_names_and_says_what_descendants_need(table: Labels) -> None:
    assert label_filter(table, "violin, fiddle,Dog", exact=True).include == frozenset({"/m/violin", "/m/dog"})
    with pytest.raises(OntologyError, match=r"ontology\.json.*--ontology.*--exact"):
        label_filter(table, "Dog")


def test_class_table_from_the_ontology_keeps_indices_first_and_adds_parents(ontology: Ontology) -> None:
    classes = Labels.of([ClassLabel(index=0, mid="/m/bark", name="Bark")])
    labels = ontology.labels(classes)
    first, *others = labels
    assert first == ClassLabel(index=0, mid="/m/bark", name="Bark", parents=("/m/dog", "/m/tree"))
    assert len(others) == 9
    assert {label.index for label in others} == {None}
    assert ontology.labels().names(["/m/violin"]) == ("Violin, fiddle",)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("<html>", "no JSON"),
        ("{}", "expected a JSON list"),
        ("[]", "expected a JSON list"),
        ('[{"id": "/m/a", "name": "A"}]', "lacks 'child_ids'"),
        ('["a"]', "an entry lacks"),
        ('[{"id": "/m/a", "name": "A", "child_ids": ["/m/b"]}]', "A has the child /m/b, which has no entry"),
    ],
)
def test_file_that_is_no_ontology_is_refused_with_its_name(
    tmp_path: Path, content: str, complaint: str
) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(OntologyError, match=r"wrong\.json") as error:
        Ontology.from_json(path)
    assert complaint in str(error.value)


def test_circular_ontology_is_refused(tmp_path: Path) -> None:
    path = write_ontology(tmp_path / "circle.json", {"/m/a": ("A", ["/m/b"]), "/m/b": ("B", ["/m/a"])})
    with pytest.raises(OntologyError, match=r"A \(/m/a\) is listed as a kind of itself"):
        Ontology.from_json(path)


def test_metadata_is_found_beside_the_segments_file(tmp_path: Path) -> None:
    write_ontology(tmp_path / "ontology.json", GRAPH)
    (tmp_path / "class_labels_indices.csv").write_text("index,mid,display_name\n0,/m/bark,Bark\n")
    metadata = find_metadata(tmp_path / "eval_segments.csv")
    labels = metadata.read_labels()
    assert labels.index("/m/bark") == 0
    assert labels.by_mid["/m/bark"].parents == ("/m/dog", "/m/tree")
    assert isinstance(metadata.read_classes(), Ontology)


def test_named_metadata_is_taken_instead_and_must_exist(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("index,mid,display_name\n0,/m/mine,Mine\n")
    metadata = find_metadata(tmp_path / "eval_segments.csv", class_labels=table)
    assert metadata.read_labels().names(["/m/mine"]) == ("Mine",)
    assert isinstance(metadata.read_classes(), Labels)
    with pytest.raises(OntologyError, match=r"gone\.json: no such file, given with --ontology"):
        find_metadata(tmp_path / "eval_segments.csv", ontology=tmp_path / "gone.json")


def test_missing_metadata_is_answered_with_addresses_and_flags(tmp_path: Path) -> None:
    metadata = find_metadata(tmp_path / "eval_segments.csv")
    with pytest.raises(OntologyError) as error:
        metadata.read_labels()
    for words in ("youtube_corpus/v1/csv/class_labels_indices.csv", "audioset/ontology", "--class-labels"):
        assert words in str(error.value)


@pytest.mark.skipif("TRICHORD_TEST_DATA" not in os.environ, reason="TRICHORD_TEST_DATA names no folder")
class TestAudioSetsOwnOntology:
    @pytest.fixture
    def metadata_folder(self) -> Path:
        return Path(os.environ["TRICHORD_TEST_DATA"]) / "metadata"

    def test_is_a_graph_of_632_nodes_7_roots_and_38_with_several_parents(self, metadata_folder: Path) -> None:
        ontology = Ontology.from_json(metadata_folder / "ontology.json")
        assert (len(ontology), len(ontology.roots)) == (632, 7)
        assert sum(len(node.parents) > 1 for node in ontology) == 38

    def test_every_name_is_found_alone_and_in_one_list_of_all(self, metadata_folder: Path) -> None:
        ontology = Ontology.from_json(metadata_folder / "ontology.json")
        assert [parse_classes(node.name, ontology) for node in ontology] == [(node.mid,) for node in ontology]
        every_name = ",".join(node.name.upper() for node in ontology)
        assert parse_classes(every_name, ontology) == tuple(node.mid for node in ontology)

    def test_explains_all_527_classes(self, metadata_folder: Path) -> None:
        labels = find_metadata(metadata_folder / "eval_segments.csv").read_labels()
        assert (len(labels), len(labels.indexed)) == (632, 527)
        dog = labels.by_mid["/m/0bt9lr"]
        assert (dog.name, labels.names(dog.parents)) == ("Dog", ("Domestic animals, pets",))
