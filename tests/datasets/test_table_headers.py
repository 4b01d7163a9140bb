"""Tables as pandas, R and NumPy write them: index, names that are numbers, labels anywhere."""

import gzip
import io

import numpy as np
import pytest

from snode.datasets import load_dataset


@pytest.fixture
def table(tmp_path):
    def load(text, name="a.csv", **options):
        path = tmp_path / name
        raw = text.encode()
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return load_dataset(path, dtype="float64", **options)

    return load


X = [[1.5, 3.5, 5.5], [2.5, 4.5, 6.5]]

SPELLINGS = {
    "to_csv": ",a,b,label\n0,1.5,2.5,0\n1,3.5,4.5,0\n2,5.5,6.5,1\n",
    "to_csv of text labels": ",a,b,kind\n0,1.5,2.5,u\n1,3.5,4.5,u\n2,5.5,6.5,v\n",
    "to_csv of a shuffled table": ",a,b,label\n71,1.5,2.5,0\n4,3.5,4.5,0\n15,5.5,6.5,1\n",
    "to_csv of an array": ",0,1,2\n0,1.5,2.5,0\n1,3.5,4.5,0\n2,5.5,6.5,1\n",
    "saved twice": ",Unnamed: 0,a,b,label\n0,0,1.5,2.5,0\n1,1,3.5,4.5,0\n2,2,5.5,6.5,1\n",
    "read and saved": "Unnamed: 0,a,b,label\n0,1.5,2.5,0\n1,3.5,4.5,0\n2,5.5,6.5,1\n",
    "index=False, array": "0,1,2\n1.5,2.5,0\n3.5,4.5,0\n5.5,6.5,1\n",
    "index=False, array and text": "0,1,2\n1.5,2.5,u\n3.5,4.5,u\n5.5,6.5,v\n",
    "index=False, array and target": "0,1,target\n1.5,2.5,0\n3.5,4.5,0\n5.5,6.5,1\n",
    "R write.csv": '"","a","b","label"\n"1",1.5,2.5,"u"\n"2",3.5,4.5,"u"\n"3",5.5,6.5,"v"\n',
    "R row names": '"","a","b","label"\n"x1",1.5,2.5,"u"\n"x2",3.5,4.5,"u"\n"x3",5.5,6.5,"v"\n',
    "R write.table": '"a" "b" "label"\n"1" 1.5 2.5 "u"\n"2" 3.5 4.5 "u"\n"3" 5.5 6.5 "v"\n',
    "R write.csv2": '"";"a";"b";"label"\n"1";1.5;2.5;"u"\n"2";3.5;4.5;"u"\n"3";5.5;6.5;"v"\n',
    "Kaggle": "Id,a,b,Species\n1,1.5,2.5,u\n2,3.5,4.5,u\n3,5.5,6.5,v\n",
    "number sign": "#,a,b,Type\n1,1.5,2.5,u\n2,3.5,4.5,u\n3,5.5,6.5,v\n",
    "label first": "label,a,b\n0,1.5,2.5\n0,3.5,4.5\n1,5.5,6.5\n",
    "Class in the middle": "a,Class,b\n1.5,u,2.5\n3.5,u,4.5\n5.5,v,6.5\n",
    "y first": "y,x1,x2\n0,1.5,2.5\n0,3.5,4.5\n1,5.5,6.5\n",
    "coordinates": "x,y,kind\n1.5,2.5,u\n3.5,4.5,u\n5.5,6.5,v\n",
    "index and label first": ",target,a,b\n0,7,1.5,2.5\n1,7,3.5,4.5\n2,9,5.5,6.5\n",
    "savetxt": "# a b label\n1.5 2.5 0\n3.5 4.5 0\n5.5 6.5 1\n",
    "savetxt with commas": "# a,b,label\n1.5,2.5,0\n3.5,4.5,0\n5.5,6.5,1\n",
    "savetxt, two lines": "# made here\n# a b label\n1.5 2.5 0\n3.5 4.5 0\n5.5 6.5 1\n",
    "savetxt, a note and a footer": "# made by hand\n1.5 2.5 0\n3.5 4.5 0\n5.5 6.5 1\n# the end\n",
    "savetxt, label first": "# label a b\n0 1.5 2.5\n0 3.5 4.5\n1 5.5 6.5\n",
    "columns of blanks": "  1.5   2.5  0 \n 3.5   4.5  0 \n  5.5  6.5  1 \n",
    "no header": "1.5,2.5,0\n3.5,4.5,0\n5.5,6.5,1\n",
}


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("name", ["a.csv", "a.txt.gz"])
def test_one_table_as_others_write_it(table, text, name):
    data = table(text, name)
    assert data.x_train.tolist() == X
    assert data.y_train.tolist() == [0, 0, 1]
    assert data.name == "a"


def test_numpy_reads_back_what_it_wrote(table):
    for options in ({"header": "a b label"}, {"header": "a,b,label", "delimiter": ","}, {}):
        buffer = io.StringIO()
        np.savetxt(buffer, np.c_[np.array(X).T, [0, 0, 1]], **options)
        assert table(buffer.getvalue()).x_train.tolist() == X


def test_a_long_header_of_numbers(table):
    rows = "\n".join("7,0,255,3" for _ in range(3))
    data = table(f"0,1,2,3\n{rows}\n9,1,2,4\n")
    assert data.x_train.shape == (3, 4)
    assert table(f"0,1,2,3\n{rows}\n9,1,2,4\n", header=False).x_train.shape == (3, 5)
    data = table(f"0,1,2,3\n{rows}\n9,1,2,4\n", label_column=0)
    assert data.classes.tolist() == [7, 9]


@pytest.mark.parametrize("text", ["0,1,2\n3,4,5\n6,7,8\n", "0,1\n1,0\n", "0,1,2\n5,6,0\n7,8,1\n"])
def test_a_first_row_that_can_be_both_is_refused(table, text):
    with pytest.raises(ValueError, match=r"row 1 could be .* header=True or header=False"):
        table(text)
    m = text.count("\n")
    assert table(text, header=False).x_train.shape[1] == m
    assert table(text, header=True).x_train.shape[1] == m - 1


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("NA,NA,0\n3,4,1\n5,6,0\n", "NA"),
        (",,0\n3,4,1\n5,6,0\n", ""),
        (",5,0\n3,4,1\n5,6,0\n", ""),
        ("1,5;2,5;0\n3;4;1\n5;6;0\n", "1,5"),
        ("1,5;2,5;0\n3,5;4;1\n5;6;0\n", "1,5"),
        ("0x10,0x20,0\n3,4,1\n5,6,0\n", "0x10"),
        ("1_0,2_0,0\n3,4,1\n5,6,0\n", "1_0"),
        ("?,?,u\n3,4,v\n5,6,u\n", "?"),
        ("null,None,0\n3,4,1\n5,6,0\n", "null"),
        ("-,-,0\n3,4,1\n5,6,0\n", "-"),
        ("50%,20%,0\n3,4,1\n5,6,0\n", "50%"),
        ("$5,$6,0\n3,4,1\n5,6,0\n", "$5"),
        ("2026-11-25,2026-11-26,0\n3,4,1\n5,6,0\n", "2026-11-25"),
        ("oops,oops,0\n3,4,1\n5,6,0\n", "oops"),  # its label is a number, no name
        ("oops,oops,u\n3,4,v\n5,6,u\n", "oops"),  # its label is one of the labels
        ("a,NA,0\n3,4,1\n5,6,0\n", "a"),
    ],
)
def test_a_sample_is_not_taken_for_a_header(table, text, cell):
    with pytest.raises(ValueError, match=r"row 1, column 1: expected a number; got ") as error:
        table(text)
    assert repr(cell) in str(error.value)


@pytest.mark.parametrize(
    "text", ["a,NA,label\n3,4,1\n5,6,0\n", "1stFloor,2ndFloor,kind\n3,4,1\n5,6,0\n"]
)
def test_odd_names_are_names(table, text):
    assert table(text).x_train.tolist() == [[3, 5], [4, 6]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.5,2.5,setosa\n3,4,0\n5,6,1\n", "row 1 could be .*its label 'setosa' is a text"),
        ("1.5,2.5,NA\n3,4,0\n5,6,1\n", "row 1, column 3: the label is missing: 'NA'"),
        ("1.5,2.5,0\n3,4,NA\n5,6,1\n", "row 2, column 3: the label is missing: 'NA'"),
        ("1.5,2.5,u\n3,4,?\n5,6,v\n", "row 2, column 3: the label is missing"),
        (",a,b\n1.5,2,0\n1.5,4,1\n", "column 1 has no name of its own.* its values repeat"),
        ("class,a,target\n0,1,2\n1,2,3\n", r"'class', 'target' could all hold the labels.*--label"),
        ("label,a,label\n0,1,2\n1,2,3\n", "could all hold the labels"),
        ("u,1,2\nv,3,4\n", r"column 1: expected a number; got 'u'.*label_column=0"),
        ("1,u,2\n2,v,4\n", r"row 1, column 2: expected a number; got 'u'"),
    ],
)
def test_what_cannot_be_told_is_refused(table, text, message):
    with pytest.raises(ValueError, match=message):
        table(text)


def test_the_only_column_beside_the_labels_is_a_feature(table):
    assert table(",label\n0,0\n1,1\n2,0\n").x_train.tolist() == [[0.0, 1.0, 2.0]]
    assert table("id,label\n1,0\n2,1\n3,0\n").x_train.tolist() == [[1.0, 2.0, 3.0]]


def test_the_index_cannot_be_the_labels(table):
    text = ",a,b\n0,1,5\n1,2,6\n"
    with pytest.raises(ValueError, match="label_column=0 is the column without a name"):
        table(text, label_column=0)
    assert table(text, label_column="a").x_train.tolist() == [[5.0, 6.0]]
    with pytest.raises(ValueError, match=r"label_column must be an index or a name; got 1\.5"):
        table(text, label_column=1.5)


def test_a_feature_that_counts_the_rows_is_pointed_at(table):
    rows = "\n".join(f"{k},{k * k % 7}.5,{k % 2}" for k in range(6))
    with pytest.warns(UserWarning, match="column 1 counts the rows and was taken for a feature"):
        assert table(rows).x_train.shape == (2, 6)
    with pytest.warns(UserWarning, match=r"column 1 \(time\) counts the rows"):
        assert table("time,a,label\n" + rows).x_train.shape == (2, 6)
    assert table("id,a,label\n" + rows).x_train.shape == (1, 6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([5] * 20, "is 5 in every row"), (range(20), "has 20 classes in 20 rows")],
)
def test_a_last_column_that_makes_no_labels_is_pointed_at(table, labels, message):
    rows = "\n".join(f"{k % 3},{0.5 * k},{label}" for k, label in enumerate(labels))
    with pytest.warns(UserWarning, match=f"last column .* {message}.*label_column"):
        table(rows)
    table("a,b,label\n" + rows)  # its name says that it holds them
    table(rows, task="regression")
    table(rows, label_column=2)


def test_labels_on_any_place_by_number(table):
    data = table("7,1,2.5\n9,3,4\n7,5,-6\n", label_column=0)
    assert data.x_train.tolist() == [[1.0, 3.0, 5.0], [2.5, 4.0, -6.0]]
    assert data.classes.tolist() == [7, 9]


def test_gzipped_tables(table, tmp_path):
    for name in ("b.csv.gz", "b.tsv.gz", "b.txt.gz", "b.CSV.GZ"):
        assert table("a\tb\tlabel\n1\t2\t0\n3\t4\t1\n", name).x_train.tolist() == [[1, 3], [2, 4]]
    with pytest.raises(ValueError, match="row 2, column 1: expected a number; got 'x'"):
        table("1,0\nx,1\n", "b.csv.gz")
    path = tmp_path / "c.csv.gz"
    path.write_bytes(gzip.compress(b"1,2,0\n3,4,1\n" * 100)[:-9])
    with pytest.raises(ValueError, match=r"c\.csv\.gz: not a readable text table"):
        load_dataset(path)
    path.write_bytes(b"1,2,0\n3,4,1\n")  # only its name says gz
    assert load_dataset(path).x_train.shape == (2, 2)
    for name in ("a.npz.gz", "a.mat.gz"):
        with pytest.raises(ValueError, match="only tables and IDX files may be gzipped; gunzip"):
            table("1,2\n", name)
