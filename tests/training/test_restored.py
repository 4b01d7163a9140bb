"""A checkpoint is a file like any other: what does not fit is refused before the run goes on."""

import json

import numpy as np
import pytest
from test_io import MEMORY, peak_memory

import snode
from snode import ModelFormatError
from snode.io import load_arrays, read_json, save_arrays
from snode.training.restored import generator_from_text, generator_to_text

GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


@pytest.fixture
def edited(tmp_path):
    """Return go(change) -> resume a small run whose checkpoint was edited by `change`."""
    x, y = snode.datasets.two_moons(40, rng=0)
    field = snode.StandaloneField.random(2, 1.0, 3, rng=0)
    file = tmp_path / "run.safetensors"

    def go(change, method="ncg", **options):
        options = {
            "batch_size": 20,
            "n_iter": 1,
            "rng": 0,
            "threads": 1,
            "method": method,
        } | options
        cost = snode.Cost(n_classes=2)
        snode.train(field, (x, y), cost, epochs=1, checkpoint=file, **options)
        arrays, header = load_arrays(file)
        change(arrays, header)
        save_arrays(file, arrays, header)
        return snode.train(field, (x, y), cost, epochs=2, checkpoint=file, resume=True, **options)

    return go


def in_header(**changes):
    return lambda arrays, header: header.update(changes)


def in_array(name, value):
    return lambda arrays, header: arrays.update({name: value})


def in_rng(**changes):
    def change(arrays, header):
        header["rng"] = json.dumps(json.loads(header["rng"]) | changes)

    return change


def rng_array(numbers, dtype):
    return in_header(
        rng=json.dumps({"bit_generator": "PCG64", "state": {"array": numbers, "dtype": dtype}})
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_header(batch=-7), "batch must be an integer >= 0; got -7"),
        (in_header(batch=True), "batch must be an integer"),
        (in_header(batch=2.0), "batch must be an integer"),
        (in_header(batch=10**30), "history epoch must be float64 of shape"),
        (in_header(batch=1), r"history epoch must be float64 of shape \(1,\)"),
        (in_header(skipped=[3, 0]), "skipped must be an integer >= 0 and at most 2; got 3"),
        (in_header(skipped=[1, 2]), "at most 1; got 2"),
        (in_header(skipped=[]), "damaged"),
        (in_header(skipped=None), "damaged"),
        (in_header(memory=["0x1p99999", "0x0p0"]), "memory must be numbers"),
        (in_header(memory=["0x0p0"]), "memory must be 2 numbers"),
        (in_header(memory=[0, 1]), "memory must be numbers"),
        (in_header(memory={}), "memory must be 2 numbers"),
        (in_header(identity=[]), "does not say which run"),
        (in_header(identity=None), "does not say which run"),
        (in_header(rng="[" * 100_000), "nested too deeply"),
        (in_header(rng="{"), "damaged"),
        (in_header(rng=5), "rng must be a text"),
        (in_header(rng="[]"), "rng must be one of PCG64"),
        (in_header(rng='{"bit_generator": "Generator"}'), "rng must be one of PCG64"),
        (in_header(rng='{"bit_generator": ["PCG64"]}'), "rng must be one of PCG64"),
        (in_header(rng='{"bit_generator": "PCG64"}'), "rng must have"),
        (rng_array(["a"], "S1000000000"), "rng must have"),
        (in_rng(state={"state": 2**128, "inc": 1}), "rng state state must be an integer"),
        (in_rng(state={"state": -1, "inc": 1}), "rng state state must be an integer"),
        (in_rng(state={"array": ["a"] * 10_000, "dtype": "S1000000000"}), "rng state must have"),
        (in_rng(uinteger=2**32), "rng uinteger must be .* at most 4294967295"),
        (in_rng(has_uint32=2), "rng has_uint32 .* at most 1"),
        (in_array("theta W", np.full((3, 2, 2), np.nan)), "parameters W must be finite"),
        (in_array("theta W", np.zeros((3, 2, 2), np.float32)), "must be float64 of shape"),
        (in_array("theta b", np.zeros((3, 3))), "parameters b must be float64 of shape"),
        (in_array("theta c", np.zeros(3)), "it holds the parameters"),
        (in_array("order", np.zeros(40, np.int64)), "not a permutation"),
        (in_array("order", np.arange(40.0)), "not a permutation"),
        (in_array("order", np.arange(40)[None]), "not a permutation"),
        (in_array("history cost", np.zeros((2, 1))), "history cost must be float64"),
        (in_array("history cost", np.zeros(2, np.float32)), "history cost must be float64"),
        (in_array("evaluation epoch", np.zeros(())), "evaluation epoch"),
        (in_array("evaluation test_accuracy", np.zeros(9)), "evaluation test_accuracy"),
    ],
)
def test_what_does_not_fit_is_named(edited, change, message):
    with pytest.raises(ModelFormatError, match=message) as error:
        edited(change)
    assert "run.safetensors" in str(error.value)


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("name", ["slot mean W", "slot square b"])
def test_moments_must_be_finite(edited, name, value):
    def change(arrays, header):
        arrays[name].flat[0] = value

    with pytest.raises(ModelFormatError, match="must be finite"):
        edited(change, method="adam")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("slot mean W", np.zeros((1, 2, 2)), "mean W must be float64 of shape"),
        ("slot mean c", np.zeros(1), "it holds the mean"),
    ],
)
def test_moments_must_be_those_of_the_field(edited, name, array, message):
    with pytest.raises(ModelFormatError, match=message):
        edited(in_array(name, array), method="adam")
    with pytest.raises(ModelFormatError, match="count must be an integer >= 0; got -1"):
        edited(in_header(count=-1), method="adam")


def test_a_direction_must_be_that_of_the_field(edited):
    with pytest.raises(ModelFormatError, match="direction W must be"):
        edited(in_array("carry d W", np.zeros((1, 2, 2))), restart=False)
    with pytest.raises(ModelFormatError, match="direction b must be finite"):
        edited(in_array("carry d b", np.full((3, 2), np.nan)), restart=False)


def test_what_fits_is_taken(edited):
    assert edited(in_header(note="ours")).n_batches == 4


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_comes_back_whatever_the_current_one_is(name):
    rng = np.random.Generator(getattr(np.random, name)(3))
    rng.random(5, dtype=np.float32)  # leaves half of a 64-bit number behind
    again = generator_from_text(generator_to_text(rng), np.random.default_rng(0))
    assert type(again.bit_generator) is type(rng.bit_generator)
    assert again.random(7, dtype=np.float32).tolist() == rng.random(7, dtype=np.float32).tolist()
    assert again.integers(1000, size=1000).tolist() == rng.integers(1000, size=1000).tolist()


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("MT19937", ("state", "pos"), 625),
        ("MT19937", ("state", "pos"), -1),
        ("MT19937", ("state", "key", "array"), [0] * 623),
        ("MT19937", ("state", "key", "array"), [2**32] + [0] * 623),
        ("Philox", ("buffer_pos",), 5),
        ("Philox", ("buffer_pos",), -1),
        ("Philox", ("buffer", "array"), [0, 0, 0, 2**64]),
        ("Philox", ("state", "counter", "array"), [0, 0, 0, "0"]),
        ("SFC64", ("state", "state", "array"), [0, 0, 0]),
        ("SFC64", ("has_uint32",), -1),
    ],
)
def test_positions_outside_of_a_buffer_are_refused(name, path, value):
    state = json.loads(generator_to_text(np.random.Generator(getattr(np.random, name)(3))))
    place = state
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=f"its rng .*{path[0]}"):
        generator_from_text(json.dumps(state), np.random.default_rng(0))


def test_the_dtype_of_a_file_costs_no_memory():
    state = json.loads(generator_to_text(np.random.Generator(np.random.SFC64(3))))
    state["state"]["state"]["dtype"] = "S1000000000"

    def read():
        return generator_from_text(json.dumps(state), np.random.default_rng(0))

    again = np.random.Generator(np.random.SFC64(3))
    assert read().integers(1000, size=9).tolist() == again.integers(1000, size=9).tolist()
    state["state"]["state"]["array"] = ["a"] * 10_000
    assert peak_memory(read, ValueError) < 1e7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "is not JSON: it is nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"a":' + "[" * 40 + "]" * 40 + "}", "nested more than 32 deep"),
        ('{"a": NaN}', "NaN is not finite"),
        ('{"a": [1, -Infinity]}', "-Infinity is not finite"),
        ('{"a": 1e999}', "1e999 is not finite"),
        ('{"a": 1, "a": 2}', "a key is repeated"),
        ('{"a": ' + "9" * 5000 + "}", "is not JSON"),
        ("[]", "must hold a JSON object"),
        ("null", "must hold a JSON object"),
        ("", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
    ],
)
def test_a_json_file_that_cannot_be_trusted(tmp_path, text, message):
    path = tmp_path / "options.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def read():
        with pytest.raises(ModelFormatError, match=message) as error:
            read_json(path)
        assert "options.json" in str(error.value)
        raise error.value

    assert peak_memory(read) < MEMORY


def test_a_huge_json_file_is_not_read_whole(tmp_path):
    path = tmp_path / "options.json"
    with path.open("wb") as file:
        file.truncate(2**33)
    assert peak_memory(lambda: read_json(path)) < MEMORY
