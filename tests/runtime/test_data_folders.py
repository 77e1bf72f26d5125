"""Folders of files and of datasets, and parquet: by split, with class names, and nothing outside the folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from attar.runtime.data import read_examples
from attar.runtime.errors import DataError, MissingExtraError


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_folder_of_files_by_split(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", '{"text": "t", "label": "x"}\n')
    write(tmp_path / "validation.csv", "text,label\nv,x\n")
    write(tmp_path / "README.txt", "not data")
    assert read_examples(tmp_path, split="train").texts == ("t",)
    assert read_examples(tmp_path, split="dev").texts == ("v",)
    with pytest.raises(DataError, match=r"\['train', 'validation'\]; name one with split"):
        read_examples(tmp_path)
    with pytest.raises(DataError, match=r"no split 'test'; name one of \['train', 'validation'\]"):
        read_examples(tmp_path, split="test")
    write(tmp_path / "train.csv", "text,label\nt,x\n")
    with pytest.raises(DataError, match=r"\['train.csv', 'train.jsonl'\] all claim"):
        read_examples(tmp_path, split="train")


def test_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no dataset; expected files such as train\.jsonl"):
        read_examples(tmp_path)


FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["negative", "positive"], "_type": "ClassLabel"},
}


NAMES = ["O", "B-city", "I-city"]


def arrow_table(texts: list[str], labels: list[int], features: object = None) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"text": texts, "label": labels, "vector": [[0.5]] * len(texts)})
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return table.replace_schema_metadata(metadata) if features else table


def save_to_disk(folder: Path, shards: list[Any], split: str | None = None) -> None:
    """What `datasets.save_to_disk` writes, as far as it matters."""
    ipc = pytest.importorskip("pyarrow.ipc")
    names = [f"data-{index:05}-of-{len(shards):05}.arrow" for index in range(len(shards))]
    state = {"_data_files": [{"filename": name} for name in names], "_split": split}
    write(folder / "state.json", json.dumps(state))
    write(folder / "dataset_info.json", json.dumps({"features": FEATURES}))
    for name, table in zip(names, shards, strict=True):
        with ipc.new_stream(str(folder / name), table.schema) as stream:
            stream.write_table(table)


def test_parquet_shards_with_class_names(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "data").mkdir()
    first, second = (tmp_path / "data" / f"train-0000{n}-of-00002.parquet" for n in (0, 1))
    parquet.write_table(arrow_table(["a", "b"], [0, 1], FEATURES), first)
    with pytest.raises(DataError, match="1 of 2 shards"):
        read_examples(tmp_path)
    parquet.write_table(arrow_table(["c"], [1], FEATURES), second)
    examples = read_examples(tmp_path)
    assert (examples.texts, examples.labels) == (("a", "b", "c"), ("negative", "positive", "positive"))
    with pytest.raises(DataError, match=r"row 1: .*holds a list, not a text"):
        read_examples(first, text="vector")


def test_parquet_without_class_names_and_broken_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow_table(["a", "b"], [0, 1]), tmp_path / "a.parquet")
    assert read_examples(tmp_path / "a.parquet").labels == ("0", "1")
    with pytest.raises(DataError, match=r"b\.parquet: is not a readable parquet"):
        read_examples(write(tmp_path / "b.parquet", b"PAR1 not really"))


@pytest.mark.parametrize(
    "feature",
    [  # as datasets 2, 3 and 4 write a list of labels
        [{"names": NAMES, "_type": "ClassLabel"}],
        {"feature": {"names": NAMES, "_type": "ClassLabel"}, "length": -1, "_type": "Sequence"},
        {"feature": {"names": NAMES, "_type": "ClassLabel"}, "length": -1, "_type": "List"},
    ],
)
def test_parquet_tags_have_the_names_of_their_feature(tmp_path: Path, feature: object) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"id": ["0"], "tokens": [["to", "New", "York"]], "ner_tags": [[0, 1, 2]]})
    parquet.write_table(table, tmp_path / "bare.parquet")
    with pytest.raises(DataError, match=r"row 1: tag 1 is the number 0, whose name is unknown; write tags as strings"):
        read_examples(tmp_path / "bare.parquet", kind="token-classification")
    metadata = {b"huggingface": json.dumps({"info": {"features": {"ner_tags": feature}}}).encode()}
    parquet.write_table(table.replace_schema_metadata(metadata), tmp_path / "named.parquet")
    examples = read_examples(tmp_path / "named.parquet", kind="token-classification")
    assert (examples.texts, examples.labels) == (("to New York",), (((3, 11, "city"),),))


def test_parquet_answers_in_both_of_their_shapes(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = {"question": ["Who?", "Why?"], "context": ["Ada did.", "Ada did."]}
    hub = [{"text": ["Ada"], "answer_start": [0]}, {"text": [], "answer_start": []}]
    ours = [[{"text": "Ada", "start": 0}], []]
    for number, answers in enumerate((hub, ours)):
        path = tmp_path / f"{number}.parquet"
        parquet.write_table(pyarrow.table({**texts, "answers": answers}), path)
        examples = read_examples(path, kind="question-answering")
        assert examples.texts == (("Who?", "Ada did."), ("Why?", "Ada did."))
        assert examples.labels == ((("Ada", 0),), ())


def test_saved_dataset_and_its_unlabelled_test_split(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "train", [arrow_table(["a"], [1]), arrow_table(["b"], [0])])
    save_to_disk(tmp_path / "test", [arrow_table(["c"], [-1])])
    write(tmp_path / "dataset_dict.json", json.dumps({"splits": ["train", "test"]}))
    assert read_examples(tmp_path, split="train").labels == ("positive", "negative")
    assert read_examples(tmp_path, split="test", require_labels=False).labels is None
    with pytest.raises(DataError, match="row 1: has no label"):
        read_examples(tmp_path, split="test")
    with pytest.raises(DataError, match=r"\['test', 'train'\]"):
        read_examples(tmp_path)


def test_saved_single_dataset(tmp_path: Path) -> None:
    save_to_disk(tmp_path, [arrow_table(["a"], [1])], split="train")
    assert read_examples(tmp_path).labels == ("positive",)
    assert read_examples(tmp_path, split="train").texts == ("a",)
    with pytest.raises(DataError, match="split 'train', not 'test'"):
        read_examples(tmp_path, split="test")


@pytest.mark.parametrize("name", ["../outside.arrow", "/outside.arrow", 3])
def test_saved_dataset_may_not_leave_its_folder(tmp_path: Path, name: object) -> None:
    save_to_disk(tmp_path, [arrow_table(["a"], [1])])
    write(tmp_path / "state.json", json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(DataError, match="not a plain name"):
        read_examples(tmp_path)


def test_saved_dataset_dict_may_not_leave_its_folder(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "outside", [arrow_table(["a"], [1])])
    write(tmp_path / "inside" / "dataset_dict.json", json.dumps({"splits": ["../outside"]}))
    with pytest.raises(DataError, match="not a plain name"):
        read_examples(tmp_path / "inside", split="../outside")


def test_without_pyarrow_the_error_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"pyarrow.*pip install 'attar\[parquet\]'"):
        read_examples(write(tmp_path / "a.parquet", b"PAR1"))
