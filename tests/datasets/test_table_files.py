"""Text tables: headers, delimiters, labels, and cells that are wrong."""

import numpy as np
import pytest

from snode.datasets import load_dataset


@pytest.fixture
def table(tmp_path):
    def load(text, name="a.csv", **options):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_dataset(path, dtype="float64", **options)

    return load


X = np.array([[1.0, 3.0, 5.0], [2.5, 4.0, -6.0]])


@pytest.mark.parametrize(
    "text",
    [
        "1,2.5,0\n3,4,1\n5,-6,1\n",
        "1,2.5,0\r\n3,4,1\r\n5,-6,1",
        "a,b,label\n1,2.5,0\n3,4,1\n5,-6e0,1\n",
        '"a, b","c",label\n1,2.5,0\n3,4,1\n5,-6,1\n',
        "1;2.5;0\n3;4;1\n5;-6;1\n",
        "1\t2.5\t0\n3\t4\t1\n5\t-6\t1\n",
        "1 2.5 0\n3 4 1\n5 -6 1\n",
        "1, 2.5, 0\n3, 4, 1\n\n5, -6, 1\n\n",
        "\ufeffa,b,label\n1,2.5,0\n3,4,1\n5,-6,1\n",
        "1,2.5,label\n1,2.5,0\n3,4,1\n5,-6,1\n",  # a header that names columns by numbers
    ],
)
def test_the_same_table_in_many_spellings(table, text):
    data = table(text)
    assert np.array_equal(data.x_train, X)
    assert data.y_train.tolist() == [0, 1, 1]
    assert data.classes.tolist() == [0, 1]


@pytest.mark.parametrize("column", [0, -3, "kind"])
def test_label_column(table, column):
    data = table("kind,u,v\n7,1,2.5\n9,3,4\n7,5,-6\n", label_column=column)
    assert np.array_equal(data.x_train, X)
    assert data.y_train.tolist() == [0, 1, 0]
    assert data.classes.tolist() == [7, 9]


def test_string_labels(table):
    data = table("1,2.5,setosa\n3,4,virginica\n5,-6,setosa\n")
    assert data.y_train.tolist() == [0, 1, 0]
    assert data.classes.tolist() == ["setosa", "virginica"]
    assert data.x_train.shape == (2, 3)


def test_targets(table):
    data = table("1,2.5,0.5\n3,4,1.5\n5,-6,-2\n", task="regression")
    assert np.array_equal(data.y_train, [[0.5, 1.5, -2.0]])
    assert data.n_classes == 0


def test_pixels_in_a_table(table):
    data = table("label,p0,p1\n0,0,255\n1,51,0\n", label_column=0, full_scale=255,
                 encoding=(0.0, -1.0))  # fmt: skip
    assert np.array_equal(data.x_train, [[0.0, -0.2], [-1.0, 0.0]])


def test_header_and_delimiter_can_be_forced(table):
    assert table("1,2\n3,0\n5,1\n", header=True).x_train.tolist() == [[3.0, 5.0]]
    assert table("1|2|0\n3|4|1\n", delimiter="|").x_train.shape == (2, 2)
    with pytest.raises(ValueError, match="row 1, column 1: expected a number; got 'a'"):
        table("a,b\n1,0\n", header=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,0\n3,oops,1\n", "row 2, column 2: expected a number; got 'oops'"),
        ("1,oops,0\n3,4,1\n", "row 1, column 2: expected a number; got 'oops'"),
        ("a,b,c\n1,2,0\n3,,1\n", "row 3, column 2: expected a number; got ''"),
        ("1,2,0\n3,1_0,1\n", "row 2, column 2: expected a number; got '1_0'"),
        ("1;2,5;0\n3;4,5;1\n", "row 1, column 2: expected a number; got '2,5'"),
        ("1,2,0\n3,4\n", "row 2 has 2 cells, the first row has 3"),
        ("1,2,0\n3,4,\n", "row 2, column 3: the label is empty"),
        ("1,2,0\n3,4,0.5\n", "labels must be integers; found 0.5 at sample 2.*regression"),
        ("1,2,0\n3,4,nan\n", "labels must be integers; found nan at sample 2"),
        ("1,2,0\n3,nan,1\n", "x_train: 1 values are not finite .* nan at sample 2, feature 2"),
        ("1,2,0\n-inf,nan,1\n", "2 values .* the first is -inf at sample 2, feature 1"),
        ("a,b,c\n", "header row but no samples"),
        ("", "empty table"),
        ("\n\n", "empty table"),
        ("1\n2\n", "at least 2 columns"),
        (b"1,2,0\n\xff\xfe,3,1\n", "not a readable text table"),
        ('1,"2,0\n', "not a readable text table"),
    ],
)
def test_wrong_tables_name_the_place(table, text, message):
    with pytest.raises(ValueError, match=message) as error:
        table(text)
    assert "a.csv" in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_column": 3}, "label_column=3 is out of range for 3 columns"),
        ({"label_column": -4}, "out of range"),
        ({"label_column": "d"}, "label_column='d' must name one column.*a, b, c"),
        ({"label_column": "c", "header": False}, "must name one column"),
        ({"delimiter": "::"}, "not a readable text table"),
    ],
)
def test_wrong_options_are_named(table, options, message):
    with pytest.raises(ValueError, match=message):
        table("a,b,c\n1,2,0\n3,4,1\n", **options)


def test_rows_are_counted_as_lines_of_the_file(table):
    with pytest.raises(ValueError, match="row 5, column 1"):
        table("a,b\n\n1,0\n\nx,1\n")


def test_other_extensions(table):
    assert table("1\t2\n3\t1\n", name="a.tsv").x_train.shape == (1, 2)
    assert table("1 2\n3 1\n", name="a.txt").x_train.shape == (1, 2)
