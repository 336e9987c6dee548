import numpy as np
import pytest

from d2_seesaw.data.annotations.decimal_numbers import parse_decimals


def test_numbers_are_those_of_python_bit_for_bit():
    rng = np.random.default_rng(0)
    plain = [f"{rng.uniform(0, 10 ** rng.integers(0, 7)):.{rng.integers(3)}f}" for _ in range(5000)]
    texts = [", ".join(plain[i : i + 7]) for i in range(0, 5000, 7)]
    values, ends = parse_decimals(texts)
    assert values.tolist() == [float(number) for number in plain]
    assert np.diff(ends, prepend=0).tolist() == [len(text.split(",")) for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        *("0", "7", "0.0", "0.5", "0.05", "10.50", "12.3", "640.00", "100", "999999999"),
        *(
            "123456.78",
            "9876543210",
            "98765432.12",
            "1234567.89",
            "0.123",
            "1.005",
            "3.14159265358979",
            "1e5",
        ),
        *("-1.5", "-0", "1" + "0" * 400),
    ],
)
def test_each_kind_of_number_alone_and_among_others(text):
    values, ends = parse_decimals([f"1, {text}", f"{text},2.5,{text}"])
    assert values.tolist() == [1, float(text), float(text), 2.5, float(text)]
    assert ends.tolist() == [2, 5]


@pytest.mark.parametrize(
    "text",
    [
        *("1,,2", ",1", "1,", ",", "", "1 2", "1.2.3", "1 .5", " ", "é", "1.é", "1\u0661"),
        *("007", "01", "01.5", "00.5", ".5", "5.", ".", "0x1", "1_0"),
    ],
)
def test_what_is_no_number_is_refused(text):
    for texts in (["1", text, "2"], ["1e5", text], [text, "1e5"], [text]):
        with pytest.raises(ValueError, match=r"Expecting|Extra data|cannot|shape|decode"):
            parse_decimals(texts)


def test_of_no_text_there_are_no_numbers():
    values, ends = parse_decimals([])
    assert values.shape == ends.shape == (0,)
