"""The authors' `.mat` files: what goes out comes back, and nothing hostile comes in."""

import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_io import assert_same_field, assert_valid_or_refused, damaged, peak_memory, random_field
from test_mat5 import compressed, element, mat_array, mat_cell, mat_file, mat_numeric, mat_text

from snode import io
from snode.fields.activations import get_activation
from snode.fields.layer import StandaloneField
from snode.matlab import _ACTIVATIONS, export_mat, import_mat
from snode.results import ModelFormatError

DATA = Path(__file__).parent / "data"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.mat"


W_CELLS = [np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0], [7.0, 8.0]])]
B_CELLS = [np.array([[1.0], [2.0]]), np.array([[3.0], [4.0]])]


def mat_variables(**changes):
    """The variables of a small valid model; `changes` replaces some (None leaves one out)."""
    variables = {
        "Wcell": mat_cell("Wcell", W_CELLS),
        "Bcell": mat_cell("Bcell", B_CELLS),
        "actFun": mat_text("actFun", "tanh"),
        "T": mat_numeric("T", 1.0),
        "tResolution": mat_numeric("tResolution", 2.0),
        **changes,
    }
    return {name: raw for name, raw in variables.items() if raw is not None}


def mat_model(**changes):
    return mat_file(*mat_variables(**changes).values())


class TestExportMat:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_comes_back_bit_identical(self, path, dtype):
        field = random_field(dtype=dtype)
        export_mat(path, field, train_accuracy=0.75, test_accuracy=0.5)
        model = import_mat(path)
        assert_same_field(model.field, field)
        assert model.encoding == (0.0, -1.0)
        assert model.manifest["train_accuracy"] == 0.75
        assert model.manifest["test_accuracy"] == 0.5
        assert model.format_version is None

    @pytest.mark.parametrize("name", _ACTIVATIONS)
    def test_every_activation_has_its_name(self, path, name):
        field = random_field(activation=get_activation(_ACTIVATIONS[name]))
        export_mat(path, field)
        model = import_mat(path)
        assert model.manifest["matlab"]["actFun"] == name
        assert_same_field(model.field, field)

    @pytest.mark.parametrize("activation", ["identity", get_activation("elu", alpha=0.3)])
    def test_activation_without_a_name(self, path, activation):
        with pytest.raises(ValueError, match=r"has no name .* knows .*tanh"):
            export_mat(path, random_field(activation=activation))

    @pytest.mark.parametrize("interpolation", ["linear", "cubic"])
    def test_only_constant_cells(self, path, interpolation):
        with pytest.raises(ValueError, match="constant on each cell"):
            export_mat(path, random_field(interpolation=interpolation))

    def test_only_a_standalone_field(self, path):
        with pytest.raises(TypeError, match="StandaloneField"):
            export_mat(path, np.zeros(3))

    @pytest.mark.parametrize("encoding", [None, (1.0, 0.0), (-0.5, 0.5)])
    def test_encoding(self, path, encoding):
        export_mat(path, random_field(), encoding=encoding)
        assert import_mat(path).encoding == encoding

    @pytest.mark.parametrize(("T", "K"), [(0.3, 7), (3.0, 150), (1e-3, 1), (1e5, 3)])
    def test_any_depth_agrees_with_its_resolution(self, path, T, K):
        export_mat(path, StandaloneField(np.zeros((K, 1, 1)), np.ones((K, 1)), T))
        field = import_mat(path).field
        assert (field.T, field.n_layers) == (T, K)

    def test_imported_model_can_be_saved(self, path, tmp_path):
        model = import_mat(DATA / "matlab_v7.mat")
        io.save(path, model.field, encoding=model.encoding, manifest=model.manifest)
        again = io.load(path)
        assert_same_field(again.field, model.field)
        assert again.manifest == model.manifest

    def test_variables_are_laid_out_as_in_matlab(self, path):
        from scipy.io import loadmat

        field = random_field()
        export_mat(path, field)
        mat = loadmat(path, appendmat=False)
        assert mat["Wcell"].shape == mat["Bcell"].shape == (1, 4)
        assert np.array_equal(mat["Wcell"][0, 2], field.W[2])
        assert np.array_equal(mat["Bcell"][0, 2], field.b[2][:, None])
        assert mat["actFun"].tolist() == ["tanh"]
        assert (mat["T"].item(), mat["tResolution"].item()) == (2.0, 2.0)
        assert math.isnan(mat["trainAcc"].item())

    @pytest.mark.slow
    @pytest.mark.skipif(shutil.which("octave") is None, reason="Octave is not installed")
    def test_octave_computes_the_same_euler_step(self, tmp_path):
        field = random_field(activation="relu")
        export_mat(tmp_path / "model.mat", field)
        script = (
            "load model.mat; x = [1; -2; 3] / 4; "
            "for k = 1:numel(Wcell), x = x + max(Wcell{k} * x + Bcell{k}, 0) / tResolution; end; "
            "printf('%s %d %d %.17g %.17g %.17g\\n', actFun, size(Wcell), x);"
        )
        done = subprocess.run(
            ["octave", "--no-gui", "--norc", "-q", "--eval", script],
            cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        name, rows, columns, *x = done.stdout.split()
        expected = np.array([[1.0], [-2.0], [3.0]]) / 4
        for t in field.grid[:-1]:
            expected = expected + 0.5 * field(t, expected)
        assert (name, rows, columns) == ("relu", "1", "4")
        # 4 steps of a 3 x 3 product: a handful of roundings of numbers near 1
        assert np.allclose([float(v) for v in x], expected[:, 0], rtol=0, atol=1e-14)


class TestImportMat:
    @pytest.mark.parametrize("name", ["matlab_v6.mat", "matlab_v7.mat"])
    def test_file_written_by_octave(self, name):
        model = import_mat(DATA / name)
        field = model.field
        i, j = np.mgrid[1:4, 1:4]
        k = np.arange(1, 5)
        assert np.array_equal(field.W, (i + 3 * (j - 1)) / 8 + k[:, None, None])
        assert np.array_equal(field.b, -np.arange(1, 4) / 8 - k[:, None])
        assert field.W.flags.c_contiguous
        assert field.dtype == np.float64
        assert (field.T, field.n_layers, field.interpolation) == (2.0, 4, "constant")
        assert field.activation.spec == {"name": "leaky_relu", "alpha": 0.01}
        assert model.encoding == (0.0, -1.0)
        assert model.manifest["train_accuracy"] == 0.5
        assert model.manifest["test_accuracy"] is None
        assert model.manifest["matlab"]["tResolution"] == 2.0

    def test_rows_and_columns(self, path):
        """K x 1 cells and biases that are rows mean the same."""
        path.write_bytes(
            mat_model(
                Wcell=mat_cell("Wcell", W_CELLS, (2, 1)),
                Bcell=mat_cell("Bcell", [b.T for b in B_CELLS], (2, 1)),
            )
        )
        field = import_mat(path).field
        assert np.array_equal(field.W, np.stack(W_CELLS))
        assert np.array_equal(field.b, np.stack(B_CELLS)[:, :, 0])

    @pytest.mark.parametrize(
        ("options", "dtype"),
        [
            ({"dtype": "u1"}, "float64"),
            ({"dtype": "i2", "class_": 10}, "float64"),  # int16
            ({"dtype": "f4", "class_": 7}, "float32"),  # single
        ],
    )
    def test_number_types(self, path, options, dtype):
        path.write_bytes(
            mat_model(
                Wcell=mat_cell("Wcell", W_CELLS, **options),
                Bcell=mat_cell("Bcell", B_CELLS, **options),
                T=mat_numeric("T", 1, dtype="u1", class_=9),
            )
        )
        field = import_mat(path).field
        assert field.dtype == dtype
        assert np.array_equal(field.W, np.stack(W_CELLS))

    def test_mixed_precision_becomes_double(self, path):
        path.write_bytes(mat_model(Bcell=mat_cell("Bcell", B_CELLS, dtype="f4", class_=7)))
        assert import_mat(path).field.dtype == np.float64

    @pytest.mark.parametrize(
        ("numbers", "encoding"),
        [
            ({}, None),
            ({"inputBgEnc": 0.0}, None),
            ({"inputScaleFactor": -1.0}, None),
            ({"inputScaleFactor": -1.0, "inputShift": 0.5}, (0.5, -0.5)),
            ({"inputScaleFactor": -1.0, "inputShift": 0.0, "inputBgEnc": 0.0}, (0.0, -1.0)),
            ({"inputScaleFactor": -1.0, "inputShift": 0.0, "inputBgEnc": 1.0}, None),
        ],
    )
    def test_encoding(self, path, numbers, encoding):
        extra = {name: mat_numeric(name, value) for name, value in numbers.items()}
        path.write_bytes(mat_model(**extra))
        model = import_mat(path)
        assert model.encoding == encoding
        assert numbers.items() <= model.manifest["matlab"].items()

    @pytest.mark.parametrize("name", ["Wcell", "Bcell", "actFun", "T", "tResolution"])
    def test_missing_variable_is_named(self, path, name):
        path.write_bytes(mat_model(**{name: None}))
        with pytest.raises(ModelFormatError, match=f"has no variable {name}"):
            import_mat(path)

    @pytest.mark.parametrize(
        ("values", "last", "kept"),
        [
            (0.5, 0.5, 0.5),
            (math.nan, None, None),
            ([[0.25, 0.5, 0.75]], 0.75, [0.25, 0.5, 0.75]),
            ([[0.25], [math.nan], [0.75]], 0.75, [0.25, None, 0.75]),
            ([[0.25, math.inf]], None, [0.25, None]),
            (np.zeros((0, 0)), None, []),
        ],
    )
    @pytest.mark.parametrize(
        ("variable", "entry"), [("trainAcc", "train_accuracy"), ("testAcc", "test_accuracy")]
    )
    def test_accuracy_may_be_a_history(self, path, variable, entry, values, last, kept):
        path.write_bytes(mat_model(**{variable: mat_numeric(variable, values)}))
        model = import_mat(path)
        assert model.manifest[entry] == last
        assert model.manifest["matlab"][variable] == kept
        io.save(path, model.field, manifest=model.manifest)
        assert io.load(path).manifest == model.manifest

    def test_net_of_zeros(self, path):
        """Its 46 MB are packed in 50 kB, and it is no decompression bomb."""
        path.write_bytes(
            mat_model(
                Wcell=compressed(mat_cell("Wcell", [np.zeros((196, 196))] * 150)),
                Bcell=compressed(mat_cell("Bcell", [np.zeros((196, 1))] * 150)),
                tResolution=mat_numeric("tResolution", 150.0),
            )
        )
        assert path.stat().st_size < 60_000
        field = import_mat(path).field
        assert (field.n_layers, field.n) == (150, 196)
        assert not field.W.any()


# --- hostile files: test_mat5 has more of them ----------------------------------------------------


def cells(name, *values):
    return {name: mat_cell(name, values)}


def numbers(**values):
    return {name: mat_numeric(name, value) for name, value in values.items()}


HOSTILE = {
    "W is an array": (
        numbers(Wcell=np.eye(2)),
        "variable Wcell: must be a 1 x K cell; it is 2 x 2",
    ),
    "not square": (cells("Wcell", np.ones((2, 3))), r"Wcell\{1\} must be 2 x 2; it is 2 x 3"),
    "one smaller": (cells("Wcell", np.eye(2), np.eye(1)), r"Wcell\{2\} must be 2 x 2; it is 1 x 1"),
    "wrong bias": (cells("Bcell", np.eye(2)), r"Bcell\{1\} must be 2 x 1; it is 2 x 2"),
    "fewer biases": (cells("Bcell", B_CELLS[0]), "Wcell has 2 cells and Bcell 1"),
    "size zero": (
        {**cells("Wcell", *np.zeros((2, 0, 0))), **cells("Bcell", *np.zeros((2, 0, 1)))},
        r"W must have shape \(K, n, n\)",
    ),
    "weights are NaN": (cells("Wcell", np.full((2, 2), np.nan)), r"Wcell\{1\} must be finite"),
    "bias is infinite": (
        cells("Bcell", B_CELLS[0], [[0], [-np.inf]]),
        r"Bcell\{2\} must be finite",
    ),
    "T is a vector": (numbers(T=[1.0, 2.0]), "T must be one number"),
    "T is text": (
        {"T": mat_text("T", "1")},
        "variable T: must be a full real array; it is .* char",
    ),
    "T is zero": (numbers(T=0.0), "Wcell has 2 cells, but T"),
    "T is negative": (numbers(T=-1.0, tResolution=-2.0), "T must be a positive"),
    "T is NaN": (numbers(T=np.nan), "Wcell has 2 cells, but T"),
    "T is infinite": (numbers(T=np.inf, tResolution=0.0), "Wcell has 2 cells, but T"),
    "wrong resolution": (
        numbers(tResolution=50.0),
        r"Wcell has 2 cells, but T \* tResolution = 1 \* 50 = 50",
    ),
    "unknown activation": ({"actFun": mat_text("actFun", "sin")}, "actFun must be one of"),
    "activation is a number": (numbers(actFun=1.0), "actFun: must be a short text"),
    "endless history": (
        {"trainAcc": compressed(mat_numeric("trainAcc", np.zeros(10**6 + 1), dtype="u1"))},
        "trainAcc must be at most 1000000 numbers",
    ),
    "history of text": (
        {"testAcc": mat_text("testAcc", "1")},
        "testAcc: must be a full real array",
    ),
}


class TestHostile:
    def test_the_template_is_a_valid_model(self, path):
        path.write_bytes(mat_model())
        assert import_mat(path).field.n == 2

    @pytest.mark.parametrize("case", HOSTILE)
    def test_is_refused_by_name(self, path, case):
        changes, message = HOSTILE[case]
        path.write_bytes(mat_model(**changes))
        with pytest.raises(ModelFormatError, match=message) as caught:
            import_mat(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 1000

    @pytest.mark.parametrize("name", ["Wcell", "Bcell", "actFun", "T", "tResolution", "trainAcc"])
    def test_bomb_costs_little_memory(self, path, name):
        array = mat_array(name, 6, (1, 2**25), element(2, bytes(2**25)))
        path.write_bytes(mat_model(**{name: compressed(array)}))
        assert peak_memory(lambda: import_mat(path)) < 1e6

    def test_file_without_variables(self, path):
        path.write_bytes(mat_file())
        with pytest.raises(ModelFormatError, match="has no variable Wcell, Bcell"):
            import_mat(path)

    def test_safetensors_is_not_a_mat_file(self, path):
        io.save(path, random_field())
        with pytest.raises(ModelFormatError, match="not a MATLAB file"):
            import_mat(path)

    def test_mat_file_is_not_safetensors(self):
        with pytest.raises(ModelFormatError, match="import_mat"):
            io.load(DATA / "matlab_v6.mat")


class TestFuzz:
    @pytest.mark.parametrize("name", ["matlab_v6.mat", "matlab_v7.mat"])
    def test_files_of_octave(self, path, name):
        content = (DATA / name).read_bytes()
        outcomes = [assert_valid_or_refused(import_mat, path, c) for c in damaged(content, 1000, 1)]
        assert True in outcomes
        assert False in outcomes

    def test_inside_compressed_variables(self, path):
        rng = np.random.default_rng(2)
        plain = mat_variables()
        for _ in range(500):
            name = str(rng.choice(list(plain)))
            (raw,) = damaged(plain[name], 1, rng)
            variables = {**plain, name: raw}
            content = mat_file(*(compressed(v) for v in variables.values()))
            assert_valid_or_refused(import_mat, path, content)
