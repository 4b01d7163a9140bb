"""Saving and loading: what goes out comes back bit for bit, and nothing hostile comes in."""

import json
import math
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from snode import io
from snode.fields import activations
from snode.fields.activations import Activation, get_activation, register_activation
from snode.fields.classifier import Classifier
from snode.fields.layer import StandaloneField
from snode.fields.mlp import MLPField
from snode.matlab import export_mat, import_mat
from snode.results import ModelFormatError

pytestmark = pytest.mark.grid(2)

MEMORY = 50e6  # bytes: the most that a small hostile file may cost


def random_field(**options):
    return StandaloneField.random(3, 2.0, 4, **{"rng": 0, **options})


def assert_same_field(a, b):
    for name in ("W", "b"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert x.tobytes() == y.tobytes()
    assert (a.T, a.interpolation, a.activation.spec) == (b.T, b.interpolation, b.activation.spec)


def peak_memory(call, error=ModelFormatError):
    tracemalloc.start()
    try:
        with pytest.raises(error):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def own_activations():
    known = dict(activations._TABLE)
    yield
    activations._TABLE.clear()
    activations._TABLE.update(known)


class TestRoundTrip:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("interpolation", ["constant", "linear", "cubic"])
    def test_weights_are_bit_identical(self, path, dtype, interpolation):
        field = random_field(dtype=dtype, interpolation=interpolation)
        io.save(path, field)
        assert_same_field(io.load(path).field, field)

    @pytest.mark.parametrize(
        "activation",
        [
            "sigmoid",
            "identity",
            get_activation("leaky_relu", alpha=1 / 3),
            get_activation("smooth_leaky_relu", alpha=0.2, width=np.float64(0.3)),
            get_activation("elu", alpha=1),
        ],
    )
    def test_activation_keeps_its_parameters(self, path, activation):
        field = random_field(activation=activation)
        io.save(path, field)
        assert_same_field(io.load(path).field, field)

    def test_what_is_known_comes_back(self, path):
        manifest = {"seed": 7, "versions": {"numpy": "2"}, "history": [1.5, None], "text": "λ"}
        io.save(path, random_field(), encoding=(0.0, -1.0), manifest=manifest)
        model = io.load(path)
        assert model.encoding == (0.0, -1.0)
        assert model.manifest == manifest
        assert model.format_version == 1  # nothing of version 2 is in it

    def test_unknown_encoding_stays_unknown(self, path):
        io.save(path, random_field())
        assert io.load(path).encoding is None
        assert io.load(path).manifest == {}

    def test_numpy_numbers_in_the_manifest(self, path):
        io.save(path, random_field(), manifest={"n": np.int64(3), "rate": np.float32(0.5)})
        assert io.load(path).manifest == {"n": 3, "rate": 0.5}

    def test_two_saves_are_the_same_file(self, path, tmp_path):
        io.save(path, random_field(), manifest={"seed": 0})
        io.save(tmp_path / "again", random_field(), manifest={"seed": 0})
        assert path.read_bytes() == (tmp_path / "again").read_bytes()

    def test_safetensors_reads_the_same_arrays(self, path):
        from safetensors.numpy import load_file

        field = random_field()
        io.save(path, field)
        arrays = load_file(path)
        assert set(arrays) == {"W", "b"}
        assert np.array_equal(arrays["W"], field.W)
        assert np.array_equal(arrays["b"], field.b)

    def test_huge_weights(self, path):
        """Their sum overflows, and that is no reason to warn."""
        field = StandaloneField(np.full((2, 2, 2), 1e308), np.full((2, 2), -1e308), 1.0)
        io.save(path, field)
        assert_same_field(io.load(path).field, field)

    def test_path_may_be_a_string(self, path):
        io.save(str(path), random_field())
        assert_same_field(io.load(str(path)).field, random_field())

    def test_loaded_arrays_are_made_by_the_chosen_backend(self, path, monkeypatch):
        class Device:
            moved = 0

            @classmethod
            def asarray(cls, array):
                cls.moved += 1
                return np.asarray(array)

        io.save(path, random_field())
        monkeypatch.setattr(io, "creator_namespace", lambda: Device)
        io.load(path)
        assert Device.moved == 2


def mlp(**options):
    options = {"output_activation": get_activation("elu", alpha=1 / 3), "rng": 0} | options
    return MLPField((2, 5, 4, 2), T=1 / 3, n_layers=7, **options)


OTHERS = {
    "mlp": mlp,
    "mlp of t": lambda **options: mlp(time="concat", activation="softplus", **options),
    "classifier of a layer": lambda **options: Classifier.random(random_field(**options), 4, rng=1),
    "classifier of an mlp": lambda **options: Classifier.random(mlp(**options), 4, rng=1),
}


class TestOtherFields:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("kind", OTHERS)
    def test_round_trip(self, path, kind, dtype):
        field = OTHERS[kind](dtype=dtype)
        io.save(path, field, manifest={"seed": 0})
        loaded = io.load(path).field
        assert type(loaded) is type(field)
        assert repr(loaded) == repr(field)
        assert list(loaded.parameters) == list(field.parameters)
        for name, p in field.parameters.items():
            assert loaded.parameters[name].dtype == p.dtype == dtype
            assert loaded.parameters[name].tobytes() == p.tobytes()
        assert (loaded.T, loaded.activation.spec) == (field.T, field.activation.spec)
        assert np.array_equal(loaded.grid, field.grid)
        x = np.random.default_rng(0).standard_normal((field.n, 3)).astype(dtype)
        assert np.array_equal(loaded(0.1, x), field(0.1, x))
        if isinstance(field, Classifier):
            assert np.array_equal(loaded.readout(x), field.readout(x))

    def test_arrays_are_flat(self, path):
        from safetensors.numpy import load_file

        io.save(path, OTHERS["classifier of a layer"]())
        assert set(load_file(path)) == {"W", "b", "V", "c"}

    def test_classifier_of_a_field_that_cannot_be_saved(self, path):
        class Own(MLPField):
            pass

        with pytest.raises(TypeError, match=r"field must be one of .*MLPField, Classifier; got"):
            io.save(path, Classifier.random(Own((2, 2)), 2))
        assert not path.exists()

    def test_weights_that_are_not_finite(self, path):
        field = OTHERS["classifier of an mlp"]()
        with pytest.raises(ValueError, match="V must be finite"):
            io.save(path, field.with_parameters(V=field.V * np.nan))

    @pytest.mark.parametrize("which", ["activation", "output_activation"])
    def test_both_activations_must_be_reproducible(self, path, which):
        false = Activation("tanh", np.sin, np.cos, (-1.0, 1.0))
        with pytest.raises(ValueError, match="another function"):
            io.save(path, mlp(**{which: false}))


class TestSave:
    def test_unknown_type_of_field(self, path):
        class StandaloneField:
            pass

        with pytest.raises(TypeError, match="field must be one of StandaloneField"):
            io.save(path, StandaloneField())

    def test_weights_that_are_not_finite(self, path):
        field = random_field()
        field = field.with_parameters(b=np.full_like(field.b, np.inf))
        with pytest.raises(ValueError, match="b must be finite"):
            io.save(path, field)
        assert not path.exists()

    @pytest.mark.parametrize("encoding", [(0.0,), (0.0, math.nan), ("0", "1"), 0.5, (0, 10**400)])
    def test_wrong_encoding(self, path, encoding):
        with pytest.raises(ValueError, match=r"encoding|background|ink"):
            io.save(path, random_field(), encoding=encoding)

    @pytest.mark.parametrize(
        "manifest", [{"x": math.nan}, {"x": [math.inf]}, {1: 0, "1": 0}, {"a": "x" * 2**20}]
    )
    def test_manifest_that_could_not_be_loaded(self, path, manifest):
        with pytest.raises(ValueError, match="header"):
            io.save(path, random_field(), manifest=manifest)
        assert list(path.parent.iterdir()) == []

    def test_manifest_that_is_not_json(self, path):
        with pytest.raises(TypeError, match="must be JSON"):
            io.save(path, random_field(), manifest={"x": object()})

    def test_endless_manifest(self, path):
        endless = []
        endless.append(endless)
        with pytest.raises(ValueError, match="cannot be stored as JSON"):
            io.save(path, random_field(), manifest={"x": endless})

    def test_failure_leaves_the_old_file_and_nothing_else(self, path, monkeypatch):
        io.save(path, random_field())
        before = path.read_bytes()

        def disk_full(self, content):
            with self.open("wb") as file:
                file.write(content[:100])
            raise OSError("disk full")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", disk_full)
            with pytest.raises(OSError, match="disk full"):
                io.save(path, random_field(rng=1))
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_replaces_the_old_file(self, path):
        io.save(path, random_field())
        io.save(path, random_field(rng=1))
        assert_same_field(io.load(path).field, random_field(rng=1))
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("write", [io.save, export_mat])
    def test_file_has_the_usual_permissions(self, path, write):
        usual = path.with_name("usual")
        usual.touch()
        write(path, random_field())
        assert path.stat().st_mode == usual.stat().st_mode

    def test_missing_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"folder .* does not exist"):
            io.save(tmp_path / "none" / "x", random_field())

    def test_folder_in_the_way(self, tmp_path):
        with pytest.raises(IsADirectoryError):
            io.save(tmp_path, random_field())


@pytest.mark.usefixtures("own_activations")
class TestOwnActivation:
    def test_registered_one_is_found_by_name(self, path):
        register_activation("sine", np.sin, np.cos, (-1.0, 1.0))
        io.save(path, random_field(activation="sine"))
        assert io.load(path).field.activation is get_activation("sine")

    def test_load_says_that_it_must_be_registered(self, path):
        register_activation("sine", np.sin, np.cos, (-1.0, 1.0))
        io.save(path, random_field(activation="sine"))
        del activations._TABLE["sine"]
        with pytest.raises(ModelFormatError, match=r"'sine'.*register_activation before loading"):
            io.load(path)

    def test_unregistered_one_is_not_saved(self, path):
        sine = Activation("sine", np.sin, np.cos, (-1.0, 1.0))
        with pytest.raises(ValueError, match="register_activation"):
            io.save(path, random_field(activation=sine))

    @pytest.mark.parametrize("write", [io.save, export_mat])
    def test_one_under_a_false_name_is_not_saved(self, path, write):
        false = Activation("tanh", np.sin, np.cos, (-1.0, 1.0))
        with pytest.raises(ValueError, match="another function"):
            write(path, random_field(activation=false))


class TestArrays:
    @pytest.mark.parametrize(
        "dtype", ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", ">f8", ">i4"]
    )
    @pytest.mark.parametrize("shape", [(), (0,), (3,), (0, 5), (2, 3, 4)])
    def test_round_trip(self, path, dtype, shape):
        array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
        io.save_arrays(path, {"a": array}, {"kind": "test"})
        arrays, header = io.load_arrays(path)
        assert header == {"kind": "test"}
        assert arrays["a"].shape == shape
        assert arrays["a"].dtype == array.dtype.newbyteorder("=")
        assert np.array_equal(arrays["a"], array)
        assert arrays["a"].flags.writeable

    def test_nan_bits_and_signed_zeros_are_kept(self, path):
        bits = np.array([0x7FF8000000000001, 0xFFF0000000000000, 0x8000000000000000], np.uint64)
        io.save_arrays(path, {"a": bits.view(np.float64)}, {"kind": "test"})
        assert np.array_equal(io.load_arrays(path)[0]["a"].view(np.uint64), bits)

    def test_array_that_is_not_contiguous(self, path):
        a = np.arange(24.0).reshape(4, 6)
        io.save_arrays(path, {"T": a.T, "strided": a[::2, ::3]}, {"kind": "test"})
        arrays, _ = io.load_arrays(path)
        assert np.array_equal(arrays["T"], a.T)
        assert np.array_equal(arrays["strided"], a[::2, ::3])

    def test_state_of_a_generator_fits_in_the_header(self, path):
        state = np.random.default_rng(0).bit_generator.state
        io.save_arrays(path, {}, {"kind": "checkpoint", "rng": state})
        assert io.load_arrays(path)[1]["rng"] == state

    def test_many_arrays(self, path):
        arrays = {f"moment/{i}": np.full(i, float(i)) for i in range(20)}
        io.save_arrays(path, arrays, {"kind": "test"})
        loaded, _ = io.load_arrays(path)
        assert {k: v.tolist() for k, v in loaded.items()} == {
            k: v.tolist() for k, v in arrays.items()
        }

    @pytest.mark.parametrize("header", [{}, {"kind": 3}])
    def test_header_needs_a_kind(self, path, header):
        with pytest.raises(ValueError, match="kind"):
            io.save_arrays(path, {}, header)

    @pytest.mark.parametrize(
        ("arrays", "error", "message"),
        [
            ({"a": [1.0]}, TypeError, "must be a NumPy or CuPy array"),
            ({"a": np.array([object()])}, ValueError, "must have dtype"),
            ({"a": np.zeros(1, "f2")}, ValueError, "must have dtype"),
            ({"a": np.zeros(1, "c16")}, ValueError, "must have dtype"),
            ({"__metadata__": np.zeros(1)}, ValueError, "cannot be called"),
            ({3: np.zeros(1)}, ValueError, "cannot be called"),
        ],
    )
    def test_what_cannot_be_stored(self, path, arrays, error, message):
        with pytest.raises(error, match=message):
            io.save_arrays(path, arrays, {"kind": "test"})
        assert not path.exists()

    def test_a_checkpoint_is_not_a_field(self, path):
        io.save_arrays(path, {}, {"kind": "checkpoint"})
        with pytest.raises(ModelFormatError, match=r"'checkpoint', not a field"):
            io.load(path)


# --- hostile safetensors --------------------------------------------------------------------------


def line(dtype="F64", shape=(1, 2, 2), offsets=(0, 32)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


FIELD = {
    "type": "StandaloneField",
    "T": 1.0,
    "activation": {"name": "tanh"},
    "interpolation": "constant",
}
HEADER = {"kind": "field", "field": FIELD, "encoding": None, "manifest": {}}
LINES = {"W": line(), "b": line(shape=(1, 2), offsets=(32, 48))}


def container(text, data=b"\0" * 48):
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw + data


def model_file(header=HEADER, lines=LINES, version=1, data=b"\0" * 48, envelope=None):
    if envelope is None:
        envelope = json.dumps({"format_version": version, "header": header})
    return container(json.dumps({"__metadata__": {"snode": envelope}, **lines}), data)


def with_field(**changes):
    return model_file({**HEADER, "field": {**FIELD, **changes}})


def with_line(name="W", **changes):
    return model_file(lines={**LINES, name: {**LINES[name], **changes}})


NAN = np.full(6, np.nan).tobytes()
GOOD = json.dumps({"format_version": 1, "header": HEADER})
HOSTILE = {
    "empty": (b"", "not a safetensors file"),
    "short": (b"1234567", "not a safetensors file"),
    "zip": (b"PK\3\4" + b"\0" * 100, "zip archive"),
    "matlab": (b"MATLAB 5.0 MAT-file" + b" " * 200, "import_mat"),
    "truncated": (model_file()[:-1], "truncated or padded"),
    "truncated header": (model_file()[:100], "not a safetensors file"),
    "padded": (model_file() + b"\0", "truncated or padded"),
    "huge header": (struct.pack("<Q", 2**63) + b"{}", "claims a header of 9223372036854775808"),
    "no header": (container(""), "Expecting value"),
    "not UTF-8": (container(b"\xff\xfe{}"), "decode"),
    "not JSON": (container("{'W': 1}"), "Expecting property name"),
    "not an object": (container("[]"), "not a JSON object"),
    "nested": (container("[" * 500_000), "nested too deeply"),
    "nested a little": (container('{"a":' + "[" * 50 + "]" * 50 + "}"), "nested more than"),
    "nested envelope": (model_file(envelope="[" * 100_000), "nested too deeply"),
    "repeated key": (container('{"W": 1, "W": 2}'), "repeated"),
    "repeated key in the envelope": (model_file(envelope='{"a": 1, "a": 2}'), "repeated"),
    "NaN": (container('{"W": NaN}'), "not finite"),
    "infinity": (container('{"W": -Infinity}'), "not finite"),
    "overflow": (container('{"W": 1e999}'), "not finite"),
    "huge integer": (container('{"W": ' + "9" * 10_000 + "}"), "integer string conversion"),
    "no metadata": (container(json.dumps(LINES)), "not written by snode"),
    "metadata is a list": (container(json.dumps({"__metadata__": []})), "not written by snode"),
    "foreign metadata": (
        container(json.dumps({"__metadata__": {"format": "pt"}, **LINES})),
        "not written by snode",
    ),
    "envelope is a list": (model_file(envelope="[]"), "format version"),
    "version is missing": (model_file(envelope='{"header": {}}'), "format version"),
    "version is a boolean": (model_file(version=True), "format version"),
    "version is zero": (model_file(version=0), "format version"),
    "newer version": (model_file(version=3), r"newer snode \(format 3; this one reads up to 2\)"),
    "header is a list": (model_file(header=[]), "no kind"),
    "no kind": (model_file(header={"field": FIELD}), "no kind"),
    "no field": (model_file({**HEADER, "field": None}), "no field type"),
    "no manifest": (model_file({**HEADER, "manifest": None}), "no manifest"),
    "wrong encoding": (model_file({**HEADER, "encoding": [0]}), "encoding must be a pair"),
    "encoding of text": (model_file({**HEADER, "encoding": ["0", "1"]}), "must be a number"),
    "unknown type": (with_field(type="os.system"), r"unknown field type 'os.system'; .* knows Sta"),
    "type is a list": (with_field(type=["StandaloneField"]), "no field type"),
    "T is zero": (with_field(T=0), "T must be a positive"),
    "T is negative": (with_field(T=-1.0), "T must be a positive"),
    "T is text": (with_field(T="1"), "T must be a number"),
    "T is a boolean": (with_field(T=True), "T must be a number"),
    "T overflows": (with_field(T=10**400), "T must be finite"),
    "option too many": (with_field(extra=1), "field header must be"),
    "unknown activation": (with_field(activation={"name": "evil"}), "'evil'"),
    "activation is text": (with_field(activation="tanh"), "no activation name"),
    "activation name is a list": (with_field(activation={"name": []}), "no activation name"),
    "activation with a function": (
        with_field(activation={"name": "tanh", "value": "exit"}),
        "value must be a number",
    ),
    "activation with a second name": (
        with_field(activation={"name": "tanh", "activation": 1}),
        "cannot build its activation",
    ),
    "activation out of range": (
        with_field(activation={"name": "leaky_relu", "alpha": 2}),
        "alpha must be in",
    ),
    "unknown interpolation": (with_field(interpolation="nearest"), "interpolation must be one of"),
    "interpolation is a list": (with_field(interpolation=["linear"]), "interpolation must be"),
    "too few nodes": (with_field(interpolation="linear"), "at least 2 nodes"),
    "weights are NaN": (model_file(data=NAN), "W must be finite"),
    "line is a number": (model_file(lines={"W": 3}), "must have dtype, shape"),
    "line with a key too many": (with_line(evil=1), "must have dtype, shape"),
    "pickled objects": (with_line(dtype="O"), "dtype must be one of"),
    "dtype is a list": (with_line(dtype=["F64"]), "dtype must be one of"),
    "half precision": (with_line(dtype="F16", shape=[2, 2, 4]), "dtype must be one of"),
    "integer weights": (with_line(dtype="I64"), "W must be float32 or float64"),
    "mixed precision": (
        model_file(lines={"W": line(), "b": line("F32", (1, 4), (32, 48))}),
        "b must have shape",
    ),
    "negative shape": (with_line(shape=[-1, -2, 2]), "shape must be"),
    "fractional shape": (with_line(shape=[1.0, 2, 2]), "shape must be"),
    "huge shape": (with_line(shape=[2**40, 2**40]), "needs"),
    "endless shape": (with_line(shape=[2**61] * 30_000), "at most 32 sizes"),
    "empty and huge": (
        model_file(lines={**LINES, "c": line(shape=[0, 2**61, 2**61], offsets=(48, 48))}),
        "model.safetensors: ",
    ),
    "shape does not fit": (with_line(shape=[1, 2, 3]), "needs 48 bytes"),
    "wrong shape": (with_line(shape=[4]), "W must have shape"),
    "not square": (with_line(shape=[2, 1, 2]), "W must have shape"),
    "offsets reversed": (with_line(data_offsets=[32, 0]), "its place in the file has -32"),
    "one offset": (with_line(data_offsets=[32]), "two positions"),
    "overlap": (
        model_file(lines={"W": line(), "b": line(shape=(1, 2), offsets=(16, 32))}),
        "overlaps",
    ),
    "gap": (
        model_file(lines={"W": line(), "b": line(shape=(1, 2), offsets=(40, 56))}, data=b"\0" * 56),
        "leaves a gap",
    ),
    "beyond the end": (
        model_file(lines={"W": line(), "b": line(shape=(1, 200), offsets=(32, 1632))}),
        "truncated",
    ),
    "array missing": (model_file(lines={"W": line()}, data=b"\0" * 32), "arrays must be"),
    "array too many": (
        model_file(lines={**LINES, "c": line("U8", (1,), (48, 49))}, data=b"\0" * 49),
        "arrays must be",
    ),
    "boolean that is neither": (
        model_file(lines={"c": line("BOOL", (3,), (0, 3))}, data=b"\1\0\7"),
        "stored as 0 and 1",
    ),
}


MLP = {
    "type": "MLPField",
    "T": 1.0,
    "n_layers": 4,
    "activation": {"name": "tanh"},
    "output_activation": {"name": "identity"},
    "time": "none",
}
MLP_LINES = {"W1": line(shape=(2, 2)), "b1": line(shape=(2,), offsets=(32, 48))}
CLASSIFIER = {"type": "Classifier", "field": MLP}
CLASSIFIER_LINES = MLP_LINES | {
    "V": line(shape=(3, 2), offsets=(48, 96)),
    "c": line(shape=(3,), offsets=(96, 120)),
}


def mlp_file(lines=None, data=b"\0" * 48, **changes):
    return model_file({**HEADER, "field": MLP | changes}, lines or MLP_LINES, data=data)


def classifier_file(field=MLP, lines=None, data=b"\0" * 120, **changes):
    header = {**CLASSIFIER, "field": field, **changes}
    return model_file({**HEADER, "field": header}, lines or CLASSIFIER_LINES, data=data)


def nested(depth):
    field = MLP
    for _ in range(depth):
        field = {"type": "Classifier", "field": field}
    return field


HOSTILE |= {
    "mlp: n_layers is huge": (mlp_file(n_layers=10**15), r"n_layers must be an integer in 1\.\."),
    "mlp: n_layers is zero": (mlp_file(n_layers=0), "n_layers must be"),
    "mlp: n_layers is a boolean": (mlp_file(n_layers=True), "n_layers must be"),
    "mlp: n_layers is a fraction": (mlp_file(n_layers=4.5), "n_layers must be"),
    "mlp: T is negative": (mlp_file(T=-1.0), "T must be a positive"),
    "mlp: T is text": (mlp_file(T="1"), "T must be a number"),
    "mlp: unknown time": (mlp_file(time="both"), "time must be one of"),
    "mlp: time is a list": (mlp_file(time=["none"]), "time must be a name"),
    "mlp: time of other arrays": (mlp_file(time="concat"), r"W1 must have shape \(2, 3\)"),
    "mlp: unknown activation": (mlp_file(activation={"name": "evil"}), "'evil'"),
    "mlp: unknown output": (mlp_file(output_activation={"name": "evil"}), "'evil'"),
    "mlp: output is text": (mlp_file(output_activation="tanh"), "no activation name"),
    "mlp: option too many": (mlp_file(widths=[2, 2]), "field header must be"),
    "mlp: wrong shape": (
        mlp_file({"W1": line(shape=(4, 1)), "b1": MLP_LINES["b1"]}),
        r"W1 must have shape \(2, 2\)",
    ),
    "mlp: b is a number": (
        mlp_file({"b1": line(shape=(), offsets=(0, 8))}, data=b"\0" * 8),
        "arrays must be",
    ),
    "mlp: bias of dimension 0": (
        mlp_file(
            {"W1": line(shape=(2, 2)), "b1": line(shape=(), offsets=(32, 40))}, data=b"\0" * 40
        ),
        r"b1 must have shape \(width,\)",
    ),
    "mlp: nothing in it": (
        mlp_file(
            {"W1": line(shape=(0, 0), offsets=(0, 0)), "b1": line(shape=(0,), offsets=(0, 0))},
            data=b"",
        ),
        r"b1 must have shape \(width,\)",
    ),
    "mlp: no arrays": (mlp_file({"x": line(shape=(), offsets=(0, 8))}, b"\0" * 8), "arrays must"),
    "mlp: other arrays": (mlp_file(LINES), "arrays must be"),
    "mlp: not finite": (mlp_file(data=NAN), "W1 must be finite"),
    "mlp: integers": (
        mlp_file({**MLP_LINES, "b1": line("I64", (2,), (32, 48))}),
        "b1 must be float32 or float64",
    ),
    "classifier: no field": (classifier_file(field=None), "no field type"),
    "classifier: unknown field": (classifier_file(MLP | {"type": "os.system"}), "unknown field ty"),
    "classifier: wrong field": (classifier_file(FIELD), "arrays must be"),
    "classifier: field is wrong": (classifier_file(MLP | {"T": 0}), "T must be a positive"),
    "classifier: option too many": (classifier_file(extra=1), "field header must be"),
    "classifier: in a classifier": (classifier_file(nested(1)), "cannot hold a Classifier"),
    "classifier: twelve deep": (classifier_file(nested(12)), "cannot hold a Classifier"),
    "classifier: a thousand deep": (classifier_file(nested(300)), "nested"),
    "classifier: no read-out": (classifier_file(lines=MLP_LINES, data=b"\0" * 48), "hold V and c"),
    "classifier: wrong V": (
        classifier_file(lines={**CLASSIFIER_LINES, "V": line(shape=(2, 3), offsets=(48, 96))}),
        r"V must have shape \(C, 2\)",
    ),
    "classifier: wrong c": (
        classifier_file(lines={**CLASSIFIER_LINES, "c": line(shape=(3, 1), offsets=(96, 120))}),
        r"c must have shape \(3,\)",
    ),
    "classifier: V is not finite": (
        classifier_file(data=b"\0" * 48 + NAN + b"\0" * 24),
        "V must be finite",
    ),
    "classifier: V of integers": (
        classifier_file(lines={**CLASSIFIER_LINES, "V": line("I64", (3, 2), (48, 96))}),
        "V must be float64",
    ),
}


class TestHostile:
    def test_the_template_is_a_valid_model(self, path):
        for content, n in ((model_file(), 2), (mlp_file(), 2), (classifier_file(), 2)):
            path.write_bytes(content)
            assert io.load(path).field.n == n

    def test_a_huge_grid_costs_no_memory(self, path):
        path.write_bytes(mlp_file(n_layers=10**15))
        assert peak_memory(lambda: io.load(path)) < 1e6

    @pytest.mark.parametrize("case", HOSTILE)
    def test_is_refused_by_name(self, path, case):
        content, message = HOSTILE[case]
        path.write_bytes(content)
        with pytest.raises(ModelFormatError, match=message) as caught:
            io.load(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 1000

    @pytest.mark.parametrize("protocol", range(6))
    @pytest.mark.parametrize("read", [io.load, io.load_arrays, import_mat])
    def test_pickle_is_never_run(self, path, read, protocol):
        trace = path.parent / "trace"
        path.write_bytes(pickle.dumps(_Payload(trace), protocol))
        with pytest.raises(ModelFormatError):
            read(path)
        assert not trace.exists()

    def test_pickle_is_called_one(self, path):
        path.write_bytes(pickle.dumps({"W": np.zeros(3)}))
        with pytest.raises(ModelFormatError, match="looks like a pickle"):
            io.load(path)

    @pytest.mark.parametrize("length", [2**20 + 1, 2**31, 2**40, 2**64 - 1])
    def test_huge_header_costs_no_memory(self, path, length):
        with path.open("wb") as file:
            file.write(struct.pack("<Q", length))
            file.truncate(2**32)  # a sparse file that would have room for it
        assert peak_memory(lambda: io.load(path)) < 1e6

    @pytest.mark.parametrize(
        "item", ["{}", "[]", "1.5", '"ab"', '{"a":1}', '{"a":{}}', "[[[[]]]]", "9999999"]
    )
    def test_header_of_many_small_things(self, path, item):
        items = ",".join([item] * ((2**20 - 100) // (len(item) + 1)))
        path.write_bytes(container('{"__metadata__":[' + items + "]}", b""))
        assert peak_memory(lambda: io.load(path)) < MEMORY

    def test_claimed_arrays_cost_no_memory(self, path):
        path.write_bytes(model_file(lines={"W": line(shape=(2**30,), offsets=(0, 2**33))}))
        assert peak_memory(lambda: io.load(path)) < 1e6

    def test_missing_file(self, path):
        for read in (io.load, io.load_arrays, import_mat):
            with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
                read(path)

    def test_folder(self, tmp_path):
        for read in (io.load, io.load_arrays, import_mat):
            with pytest.raises(IsADirectoryError, match="is a folder"):
                read(tmp_path)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
    def test_pipe_does_not_block(self, path):
        os.mkfifo(path)
        for read in (io.load, io.load_arrays, import_mat):
            with pytest.raises(ModelFormatError, match="not a regular file"):
                read(path)


class _Payload:
    """A pickle of this creates a file when it is loaded."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (os.mkdir, (str(self.trace),))


def test_the_payload_would_work(tmp_path):
    pickle.loads(pickle.dumps(_Payload(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()


# --- fuzzing --------------------------------------------------------------------------------------


def damaged(content, count, seed):
    """Yield `count` copies of `content`, each with a few bytes changed, cut out or put in."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        raw = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            position = int(rng.integers(len(raw)))
            kind = rng.integers(5)
            if kind == 0:
                raw[position] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                raw[position] = int(rng.choice([0, 1, 0x22, 0x2C, 0x7F, 0x80, 0xFF]))
            elif kind == 2:
                raw[position] = int(rng.integers(256))
            elif kind == 3:
                del raw[position : position + int(rng.integers(1, 9))]
            else:
                raw[position:position] = rng.bytes(int(rng.integers(1, 9)))
        yield bytes(raw)


def assert_valid_or_refused(read, path, content):
    path.write_bytes(content)
    try:
        field = read(path).field
    except ModelFormatError:
        return False
    assert np.isfinite(field.W).all()
    assert np.isfinite(field.b).all()
    assert field.b.shape == (len(field.W), field.n) == field.W.shape[:2]
    assert math.isfinite(field.T)
    assert field.T > 0
    return True


class TestFuzz:
    def test_safetensors(self, path):
        io.save(path, random_field(), encoding=(0.0, -1.0), manifest={"seed": 0})
        content = path.read_bytes()
        outcomes = [assert_valid_or_refused(io.load, path, c) for c in damaged(content, 1500, 0)]
        assert True in outcomes
        assert False in outcomes

    def test_truncation_is_always_noticed(self, path):
        io.save(path, random_field())
        content = path.read_bytes()
        for length in range(len(content)):
            assert not assert_valid_or_refused(io.load, path, content[:length])
